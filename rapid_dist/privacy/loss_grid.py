"""Privacy loss distributions of Gaussian mechanisms and of proved bounds, composed on one grid, rounded upwards."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dp_accounting import NeighboringRelation
from dp_accounting.pld.common import DifferentialPrivacyParameters
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
    from_privacy_parameters,
    identity,
)


def bound_in_relation(bound: tuple[float, float], *, is_replace_one: bool) -> tuple[float, float]:
    """A bound proved for adding or removing one record, in the relation asked for.

    To replace is to remove and to add: (2 epsilon, (1 + e^epsilon) delta), by group privacy.
    """
    epsilon, delta = bound
    if not is_replace_one:
        return bound
    return 2 * epsilon, min(1.0, (1 + math.exp(min(epsilon, 700.0))) * delta)


def epsilon_of_one_bound(epsilon: float, bound_delta: float, delta: float) -> float:
    """Epsilon at delta of one charge that is (epsilon, bound_delta)-private, exactly.

    The pair that dominates all such mechanisms has infinite loss with probability d, loss e with (1 - d) / (1 + e^-e)
    and -e else (Kairouz, Oh and Viswanath 2015): at x in [0, e] its delta is d + (1 - d)(1 - e^(x - e)) / (1 + e^-e).
    """
    if bound_delta > delta:
        return math.inf
    share = (delta - bound_delta) * (1 + math.exp(-epsilon)) / (1 - bound_delta)
    return max(0.0, epsilon + math.log1p(-share)) if share < 1 else 0.0


def epsilon_on_grid(
    gaussians: Iterable[tuple[str, float, float, int]],
    bounds: Iterable[tuple[float, float]],
    delta: float,
    *,
    interval: float,
    relation: NeighboringRelation,
) -> float:
    """Epsilon at delta of all together; every loss is rounded up to a multiple of interval.

    gaussians: (mechanism, sample_rate, noise_multiplier, num_steps). bounds: (epsilon, delta), each the dominating pair
    of epsilon_of_one_bound. Guarantee: an upper bound, infinite when the deltas of the bounds already exceed delta.
    """
    total = identity(value_discretization_interval=interval)
    for mechanism, sample_rate, noise_multiplier, num_steps in gaussians:
        loss = _LOSSES[mechanism](sample_rate, noise_multiplier, num_steps, interval, relation)
        total = total.compose(loss)
    for parameters in bounds:
        total = total.compose(from_privacy_parameters(DifferentialPrivacyParameters(*parameters), interval))
    return float(total.get_epsilon_for_delta(delta))


def _gaussian(
    _: float, noise_multiplier: float, num_steps: int, interval: float, relation: NeighboringRelation
) -> PrivacyLossDistribution:
    """n Gaussian mechanisms are one with 1 / sqrt(n) of the noise."""
    return from_gaussian_mechanism(
        noise_multiplier / math.sqrt(num_steps), value_discretization_interval=interval, neighboring_relation=relation
    )


def _poisson_gaussian(
    sample_rate: float, noise_multiplier: float, num_steps: int, interval: float, relation: NeighboringRelation
) -> PrivacyLossDistribution:
    return from_gaussian_mechanism(
        noise_multiplier,
        value_discretization_interval=interval,
        sampling_prob=sample_rate,
        neighboring_relation=relation,
    ).self_compose(num_steps)


# A mechanism missing here is a KeyError, not a free release.
_LOSSES = {"gaussian": _gaussian, "poisson_gaussian": _poisson_gaussian}
