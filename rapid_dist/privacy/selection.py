"""Epsilon of releasing only the best of a random number of private runs (Papernot and Steinke 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dp_accounting import rdp
from dp_accounting.dp_event import RepeatAndSelectDpEvent

from rapid_dist.errors import SpecError
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.events import dp_event, quiet_absl

SHAPES = {"logarithmic": 0.0, "geometric": 1.0, "poisson": math.inf}


def epsilon_of_best_run(charges: Iterable[Charge], delta: float, *, mean_runs: float, num_runs: str) -> float:
    """Epsilon, under adding or removing one record, of K runs that each make all charges, when only the best leaves.

    num_runs: the law of the secret K, of this mean: logarithmic (cheapest, often 1), geometric or poisson. Only RDP
    can count this, so there is no second opinion and no replace-one.
    Guarantee: an upper bound if K is drawn once, each run's settings are drawn on their own from a fixed law, and
    nothing but the best run and its settings is ever seen; runs that are watched must be composed instead.
    Raises SpecError for an unknown law or a mean that it cannot have.
    """
    check_num_runs(num_runs, mean_runs)
    if not 0 < delta < 1:
        raise SpecError(f"delta is {delta!r}; expected more than 0 and less than 1")
    event = RepeatAndSelectDpEvent(dp_event(charges), mean_runs, SHAPES[num_runs])
    with quiet_absl():
        return float(rdp.RdpAccountant().compose(event).get_epsilon(delta))


def check_num_runs(num_runs: str, mean_runs: float) -> None:
    """Raises SpecError for an unknown law of the number of runs, or a mean that it cannot have.

    A Poisson number of runs may be 0, so its mean may be 1; below 1 its theorem was not proved.
    """
    if num_runs not in SHAPES:
        raise SpecError(f"num_runs is {num_runs!r}; expected one of {', '.join(SHAPES)}")
    is_possible = mean_runs > 1 or (num_runs == "poisson" and mean_runs == 1)
    if not (math.isfinite(mean_runs) and is_possible):
        least = "of at least 1" if num_runs == "poisson" else "above 1"
        raise SpecError(f"mean_runs is {mean_runs}; expected a finite number {least}")
