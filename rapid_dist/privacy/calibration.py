"""Budgets, the least noise that fits one, and the noise of tuning studies."""

from __future__ import annotations

import functools
import math
import secrets
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal

from scipy.optimize import brentq

from rapid_dist.errors import BudgetExceededError, SpecError
from rapid_dist.privacy.accounting import ADD_OR_REMOVE_ONE, epsilon_pld, epsilon_rdp, is_within
from rapid_dist.privacy.charges import (
    AnyCharge,
    Charge,
    check_num_runs,
    epsilon_of_best_run,
    merge_charges,
    split_charges,
    training_charge,
)

_TOLERANCE = 1e-9


class Budget:
    """Charges may together cost target_epsilon at target_delta, by PLD; what is known to fit is remembered."""

    def __init__(self, target_epsilon: float, target_delta: float):
        self.target_epsilon, self.target_delta = target_epsilon, target_delta
        self._known_to_fit: Counter[Hashable] = Counter()

    def epsilon(self, charges: Iterable[AnyCharge]) -> float:
        """What the charges cost together, at target_delta."""
        return epsilon_pld(charges, self.target_delta)

    def fits(self, charges: Iterable[AnyCharge]) -> bool:
        """Whether the charges stay within the target. Part of what is known to fit fits: epsilon is monotone."""
        charges = tuple(charges)
        uses = _uses(charges)
        if uses <= self._known_to_fit:
            return True
        if not is_within(charges, self.target_delta, self.target_epsilon + _TOLERANCE):
            return False
        self._known_to_fit = uses
        return True

    def refuse_overspending(
        self, already: tuple[AnyCharge, ...], more: tuple[AnyCharge, ...], *, name: str, what: str
    ) -> None:
        """Raises BudgetExceededError when more does not fit beside what is charged already."""
        together = (*already, *more)
        if not self.fits(together):
            raise BudgetExceededError(
                f"{what} would bring epsilon from {self.epsilon(already):.6f} to {self.epsilon(together):.6f}, over"
                f" {name} {self.target_epsilon} at delta {self.target_delta}; nothing was charged"
            )

    def largest_fitting(self, already: Iterable[AnyCharge], charge_like: Charge, up_to: int) -> int:
        """The largest n <= up_to such that n steps of charge_like still fit beside what is charged; 0 when none.

        Epsilon rises with n: all of up_to is tried first, then the range is halved.
        """
        already = tuple(already)
        low, high = 0, max(up_to, 0) + 1
        middle = high - 1
        while low < middle:
            if self.fits((*already, replace(charge_like, num_steps=middle))):
                low = middle
            else:
                high = middle
            middle = (low + high) // 2
        return low


def _uses(charges: Iterable[AnyCharge]) -> Counter[Hashable]:
    """How often each mechanism is used: the steps of a Gaussian, one for each charge known by a bound."""
    uses: Counter[Hashable] = Counter()
    for charge in merge_charges(charges):
        key: Hashable = charge
        if isinstance(charge, Charge):
            key = (charge.mechanism, charge.sample_rate, charge.noise_multiplier)
        uses[key] += charge.num_steps
    return uses


_MAX_NOISE_MULTIPLIER = 1e6
_MIN_NOISE_MULTIPLIER = 1e-3
_COARSENESS = 10


def calibrate_noise_multiplier(
    *,
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    num_steps: int,
    other_charges: Iterable[AnyCharge] = (),
    tolerance: float = 1e-3,
    neighboring_relation: str = ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the smallest noise multiplier, to a relative tolerance and rounded up to 4 decimals, that fits.

    Args:
        target_epsilon: The epsilon not to exceed, by PLD.
        delta: The delta that it is stated at, in (0, 1).
        sample_rate: Probability with which each record joins a step.
        num_steps: How many steps.
        other_charges: What else has to fit beside them.
        tolerance: How much larger than the smallest the answer may be, as a share of it.
        neighboring_relation: add_or_remove_one, or replace_one.

    Raises:
        SpecError: other_charges leave no room, or a setting is out of range.

    Epsilon falls as noise grows, so the answer is found by bisection: RDP brackets it (cheap, too large),
    PLD on a grid ten times coarser narrows the bracket, PLD at full resolution decides.
    Guarantee: epsilon_pld of other_charges and num_steps of the Poisson-subsampled Gaussian at the returned
    value, the very number returned, is at most target_epsilon; rounding never lowers the noise.
    """
    _check_aim(target_epsilon, tolerance)
    others = tuple(other_charges)
    pld = functools.partial(epsilon_pld, delta=delta, neighboring_relation=neighboring_relation)
    rdp = functools.partial(epsilon_rdp, delta=delta)  # of adding or removing one, in any case: a guess only
    already = pld(others)
    if already >= target_epsilon:
        raise SpecError(
            f"other charges alone cost epsilon {already:.6f} of target_epsilon {target_epsilon} at delta {delta};"
            " raise the target or spend less on them"
        )

    def charges_at(noise_multiplier: float) -> tuple[AnyCharge, ...]:
        training = training_charge(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=num_steps)
        return (*others, training)

    def fits_by_rdp(noise_multiplier: float) -> bool:
        gaussians, _ = split_charges(charges_at(noise_multiplier))  # RDP knows nothing of others
        return rdp(gaussians) <= target_epsilon

    def fits_coarsely(noise_multiplier: float) -> bool:
        return pld(charges_at(noise_multiplier), coarseness=_COARSENESS) <= target_epsilon

    def fits(noise_multiplier: float) -> bool:
        return pld(charges_at(_round_up(noise_multiplier))) <= target_epsilon

    guess = _smallest_fitting(fits_by_rdp, guess=1.0, factor=2.0, tolerance=0.05)
    guess = _smallest_fitting(fits_coarsely, guess=guess, factor=1.1, tolerance=tolerance)
    result = _round_up(_smallest_fitting(fits, guess=guess, factor=1 + 2 * tolerance, tolerance=tolerance / 2))
    if not fits(result):
        raise SpecError(
            f"no noise_multiplier up to {_MAX_NOISE_MULTIPLIER:g} keeps {num_steps} steps at sample_rate"
            f" {sample_rate} within target_epsilon {target_epsilon} at delta {delta}; other charges cost"
            f" {already:.6f}; raise the target or take fewer steps"
        )
    return result


def least_noise_multiplier(
    epsilon_at: Callable[[float | None], float], *, target_epsilon: float, tolerance: float, what: str, delta: float
) -> float:
    """As calibrate_noise_multiplier, for an epsilon that falls with the noise and is quick to compute.

    epsilon_at(None): what is spent without any training. what: in words, what epsilon_at counts.
    Guarantee: epsilon_at of the very number returned is at most target_epsilon.
    Raises SpecError when even without training there is no room, or a setting is out of range.
    """
    _check_aim(target_epsilon, tolerance)
    already = epsilon_at(None)
    if already >= target_epsilon:
        raise SpecError(
            f"{what} cost epsilon {already:.6f} of target_epsilon {target_epsilon} at delta {delta} untrained;"
            " raise the target or spend less on the rest"
        )

    def fits(noise_multiplier: float) -> bool:
        return epsilon_at(_round_up(noise_multiplier)) <= target_epsilon

    result = _round_up(_smallest_fitting(fits, guess=1.0, factor=2.0, tolerance=tolerance / 2))
    if not fits(result):
        raise SpecError(
            f"no noise_multiplier up to {_MAX_NOISE_MULTIPLIER:g} keeps {what} within target_epsilon {target_epsilon}"
            f" at delta {delta}; raise the target or take fewer steps"
        )
    return result


def _check_aim(target_epsilon: float, tolerance: float) -> None:
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise SpecError(f"target_epsilon is {target_epsilon}; expected a finite number above 0")
    if not 0 < tolerance < 1:
        raise SpecError(f"tolerance is {tolerance}; expected more than 0 and less than 1")


def _smallest_fitting(fits: Callable[[float], bool], *, guess: float, factor: float, tolerance: float) -> float:
    """A value that fits and is at most (1 + tolerance) times one that does not; the caller checks it.

    Goes from the guess by growing factors until the answer is between two values, then bisects their ratio.
    """
    low = high = guess
    if fits(guess):
        while fits(low):
            high, low, factor = low, low / factor, factor**1.5
            if high < _MIN_NOISE_MULTIPLIER:
                return high
    else:
        while not fits(high):
            low, high, factor = high, high * factor, factor**1.5
            if low > _MAX_NOISE_MULTIPLIER:
                return low
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _round_up(value: float) -> float:
    return float(Decimal(value).quantize(Decimal("0.0001"), rounding=ROUND_CEILING))


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
    each: tuple[AnyCharge, ...] = (
        *(replace(c, num_steps=c.num_steps * trials_left) for c in gaussians),
        *(bounded * trials_left),
    )
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
