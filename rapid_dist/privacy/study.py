"""The noise of a tuning study, for each way of accounting, and the secret number of its runs."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace

from scipy.optimize import brentq

from rapid_dist.errors import SpecError
from rapid_dist.privacy.calibration import calibrate_noise_multiplier, least_noise_multiplier
from rapid_dist.privacy.charges import AnyCharge, Charge, split_charges, training_charge
from rapid_dist.privacy.selection import check_num_runs, epsilon_of_best_run

_MOST_MEAN_RUNS = 500.0  # far above what anyone waits for; e to the power of minus it is still a float
_LEAST_PROBABILITY = 2.0**-60  # far below what a 53-bit uniform can tell from nothing


def calibrate_best_run(
    *,
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    num_steps: int,
    other_charges: Iterable[Charge] = (),
    mean_runs: float,
    num_runs: str,
    tolerance: float = 1e-3,
) -> float:
    """The smallest noise multiplier of a run, to a relative tolerance and rounded up to 4 decimals, for repeat_select.

    other_charges: what every run charges beside its training. num_runs, mean_runs: as epsilon_of_best_run has them.
    Guarantee: epsilon_of_best_run of other_charges and num_steps of the Poisson-subsampled Gaussian at the returned
    value, the very number returned, is at most target_epsilon; rounding never lowers the noise.
    Raises SpecError when choosing among runs of other_charges leaves no room, or a setting is out of range.
    """
    others = tuple(other_charges)

    def epsilon_at(noise_multiplier: float | None) -> float:
        charges = others
        if noise_multiplier is not None:
            charges += (
                training_charge(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=num_steps),
            )
        return epsilon_of_best_run(charges, delta, mean_runs=mean_runs, num_runs=num_runs)

    return least_noise_multiplier(
        epsilon_at,
        target_epsilon=target_epsilon,
        tolerance=tolerance,
        what=f"the best of {num_runs} {mean_runs:g} runs of {num_steps} steps at sample_rate {sample_rate}",
        delta=delta,
    )


def compose_noise_multiplier(
    *,
    target_epsilon: float,
    delta: float,
    already: Iterable[AnyCharge],
    sample_rate: float,
    num_steps: int,
    per_trial: tuple[Charge, ...] = (),
    trials_left: int,
) -> float:
    """The noise multiplier of the next trial of a study whose trials compose.

    already: everything planned so far, of all earlier trials. per_trial: what a trial charges beside its training.
    Guarantee: already and trials_left trials like this one together cost at most target_epsilon at delta, by PLD; a
    later trial of the same shape may thus use as little noise, and no trial is priced out by one before it.
    Raises SpecError when there is no room, or a setting is out of range.
    """
    if isinstance(trials_left, bool) or not isinstance(trials_left, int) or trials_left < 1:
        raise SpecError(f"trials_left is {trials_left!r}; expected a whole number of at least 1")
    gaussians, bounded = split_charges(per_trial)
    each = (*(replace(c, num_steps=c.num_steps * trials_left) for c in gaussians), *bounded * trials_left)
    return calibrate_noise_multiplier(
        target_epsilon=target_epsilon,
        delta=delta,
        sample_rate=sample_rate,
        num_steps=num_steps * trials_left,
        other_charges=(*already, *each),
    )


def draw_num_runs(num_runs: str, mean_runs: float, uniform: float | None = None) -> int:
    """K of the law that epsilon_of_best_run counts, by inversion: the smallest k with P(K <= k) > uniform.

    uniform: in [0, 1), 53 bits of the operating system's entropy unless a test gives it. With g between 0 and 1
    such that the mean is right, geometric is P(K = k) = g (1 - g)^(k - 1) and logarithmic (1 - g)^k / (k log(1 / g)),
    both from 1; Poisson is from 0, and a K of 0 means that nothing is run or released (Papernot and Steinke 2022).
    Guarantee: K is private: that of a study must not be seen, nor anything that tells it.
    Raises SpecError for an unknown law or a mean that it cannot have.
    """
    check_num_runs(num_runs, mean_runs)
    if mean_runs > _MOST_MEAN_RUNS:
        raise SpecError(f"mean_runs is {mean_runs}; expected at most {_MOST_MEAN_RUNS:g}")
    if uniform is None:
        uniform = secrets.randbits(53) / 2**53
    if not 0 <= uniform < 1:
        raise SpecError(f"uniform is {uniform}; expected at least 0 and less than 1")
    number, probability, next_ratio = _LAWS[num_runs](mean_runs)
    left = uniform
    while left >= probability and not (number > mean_runs and probability < _LEAST_PROBABILITY):
        left -= probability
        probability *= next_ratio(number)
        number += 1
    return number


# A law: its least k, the probability of that, and P(K = k + 1) / P(K = k) as a function of k.
_Law = tuple[int, float, Callable[[int], float]]


def _logarithmic(mean: float) -> _Law:
    """(1 - g)^k / (k t) with t = log(1 / g); the mean is (1 / g - 1) / t."""
    t = brentq(lambda t: math.expm1(t) / t - mean, 1e-16, 2 * math.log(mean) + 2, xtol=1e-15)
    kept = -math.expm1(-t)
    return 1, kept / t, lambda k: kept * k / (k + 1)


def _geometric(mean: float) -> _Law:
    return 1, 1 / mean, lambda k: 1 - 1 / mean


def _poisson(mean: float) -> _Law:
    return 0, math.exp(-mean), lambda k: mean / (k + 1)


_LAWS: dict[str, Callable[[float], _Law]] = {
    "logarithmic": _logarithmic,
    "geometric": _geometric,
    "poisson": _poisson,
}
