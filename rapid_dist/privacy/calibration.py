"""The least noise that keeps a planned number of steps, with everything else charged, inside the budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, Decimal

from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import ADD_OR_REMOVE_ONE, epsilon_pld, epsilon_rdp
from rapid_dist.privacy.charges import AnyCharge, split_charges, training_charge

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
    """The smallest noise multiplier, to a relative tolerance and rounded up to 4 decimals, that fits.

    Epsilon falls as noise grows, so the answer is found by bisection: RDP brackets it (cheap, too large),
    PLD on a grid ten times coarser narrows the bracket, PLD at full resolution decides.
    Guarantee: epsilon_pld of other_charges and num_steps of the Poisson-subsampled Gaussian at the returned
    value, the very number returned, is at most target_epsilon; rounding never lowers the noise.
    Raises SpecError when other_charges leave no room, or a setting is out of range.
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
