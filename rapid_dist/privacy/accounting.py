"""Epsilon of a list of charges, by three accountants that share no code path, and the check that they agree.

The reported value is PLD (privacy loss distributions, connect-the-dots, rounded towards more loss). PRV is
the two-sided cross-check, RDP a looser upper bound. The Gaussian/CLT approximation is never offered: it
lies below the true value. Under replace_one PLD stands alone: noise multipliers are always over the clipping norm,
and that a replaced record moves the sum by up to twice that norm is counted by dp_accounting's PLD but not by its RDP
(its issue 378), and not by Opacus. RDP is then infinite and PRV missing.
A charge known by a bound only has no second accountant: PLD composes its bound, RDP is infinite and PRV missing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import dp_accounting
from dp_accounting import NeighboringRelation, rdp
from dp_accounting.pld.common import DifferentialPrivacyParameters
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
    from_privacy_parameters,
    identity,
)

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.charges import (
    AnyCharge,
    Charge,
    ChargeKey,
    charge_key,
    event_of,
    merge_charges,
    quiet_absl,
    split_charges,
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

PRV_EPSILON_ERROR = 0.01
_MAX_PRV_POINTS = 2**25


def epsilon_prv(
    mechanisms: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    epsilon_rdp_fn: Callable[[float], float],
) -> tuple[float | None, str | None]:
    """The upper end of PRV's interval of half-width 0.01, or None and the reason.

    mechanisms: (sample_rate, noise_multiplier, num_steps), at least one. epsilon_rdp_fn bounds their epsilon at a
    delta, which says how wide the grid must be.
    """
    delta_error = delta / 1000
    num_steps = sum(n for *_, n in mechanisms)
    mesh = PRV_EPSILON_ERROR / math.sqrt(num_steps * math.log(12 / delta_error) / 2)
    if 2 * (epsilon_rdp_fn(delta_error / 8) + 3) / mesh > _MAX_PRV_POINTS:
        return None, "the PRV grid would be too large"
    try:
        with _quiet_opacus():
            value = _add_or_remove_one(mechanisms, delta, delta_error)
    except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        return None, f"{type(error).__name__}: {error}"
    return (None, "PRV gave NaN") if math.isnan(value) else (max(0.0, float(value)), None)


def _add_or_remove_one(mechanisms: Sequence[tuple[float, float, int]], delta: float, delta_error: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, q, n) for q, sigma, n in mechanisms]
    return accountant.get_epsilon(delta, eps_error=PRV_EPSILON_ERROR, delta_error=delta_error)


@contextlib.contextmanager
def _quiet_opacus() -> Iterator[None]:
    """Silences what Opacus's accountants say on valid input: log(1 - q) at q = 1, and RDP orders."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"opacus\.accountants")
        yield


ADD_OR_REMOVE_ONE, REPLACE_ONE = NEIGHBORING_RELATIONS = ("add_or_remove_one", "replace_one")
VALUE_DISCRETIZATION_INTERVAL = 1e-4
_RELATIONS = {
    ADD_OR_REMOVE_ONE: dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    REPLACE_ONE: dp_accounting.NeighboringRelation.REPLACE_ONE,
}
_FULL_RESOLUTION_UP_TO_EPSILON = 32.0
_LEAST_NOISE_MULTIPLIER = 1e-3  # below it epsilon is over 10^5 where it is not infinite: it is called infinite
_MOST_BOUND = 500.0  # a proved bound above it is called infinite
_KNOWN_BY_BOUND = "a charge is known by its bound only"
_PLD_ALONE = "under replace_one PLD stands alone"


@dataclass(frozen=True, kw_only=True)
class EpsilonResult:
    """Epsilon at one delta by three accountants. prv is None when it cannot be computed; see prv_reason.

    pld_rounding: how far the rounding of PLD's grid may lift it: each step's loss moves within a cell of
    width h, which adds at most h^2/4 of variance a step; h * sqrt(num_steps) is two standard deviations.
    of_gaussians: when there are charges known by a bound only, the same of all others, which three accountants count.
    """

    pld: float
    prv: float | None
    rdp: float
    delta: float
    neighboring_relation: str = ADD_OR_REMOVE_ONE
    pld_rounding: float = 0.0
    prv_reason: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    of_gaussians: EpsilonResult | None = None


def epsilon_pld(
    charges: Iterable[AnyCharge],
    delta: float,
    *,
    coarseness: int = 1,
    neighboring_relation: str = ADD_OR_REMOVE_ONE,
) -> float:
    """Epsilon by privacy loss distributions; no charges cost 0.

    Above epsilon 32 the grid is widened by powers of two to bound time and memory. coarseness widens it by a
    whole factor, for quick bounds. Grids nest, so a coarser one never gives the smaller answer.
    Guarantee: an upper bound on the true epsilon at delta, for any coarseness.
    Raises SpecError when delta is not in (0, 1) or the relation is unknown.
    """
    if isinstance(coarseness, bool) or not isinstance(coarseness, int) or coarseness < 1:
        raise SpecError(f"coarseness is {coarseness!r}; expected a whole number of at least 1")
    return _epsilon_pld(charge_key(charges), _checked_delta(delta), coarseness, _checked_relation(neighboring_relation))


def epsilon_rdp(charges: Iterable[AnyCharge], delta: float) -> float:
    """Epsilon under add_or_remove_one by Renyi differential privacy over dp_accounting's default orders.

    Guarantee: an upper bound on the true epsilon at delta; orders that do not converge only loosen it.
    """
    return _epsilon_rdp(charge_key(charges), _checked_delta(delta))


def is_within(
    charges: Iterable[AnyCharge], delta: float, limit: float, *, neighboring_relation: str = ADD_OR_REMOVE_ONE
) -> bool:
    """Whether epsilon_pld is at most limit, the same answer about ten times as fast where there is room to spare.

    A grid ten times coarser gives no smaller an epsilon, so when that one fits the finer one does.
    """
    charges = tuple(charges)
    return any(
        epsilon_pld(charges, delta, coarseness=c, neighboring_relation=neighboring_relation) <= limit for c in (10, 1)
    )


def compute_epsilon(
    charges: Iterable[AnyCharge], *, delta: float, neighboring_relation: str = ADD_OR_REMOVE_ONE
) -> EpsilonResult:
    """Works out the epsilon of all charges together by PLD, PRV and RDP, with the versions that computed it.

    Args:
        charges: What was, or will be, done with the data.
        delta: The delta that epsilon is stated at, in (0, 1).
        neighboring_relation: add_or_remove_one, or replace_one, which PLD counts alone.

    Raises:
        SpecError: A value is outside its range.

    Guarantee: pld and rdp are upper bounds on the true epsilon; a run must report pld, and only after
    check_agreement passed.
    """
    charges = tuple(charges)
    key, delta, relation = charge_key(charges), _checked_delta(delta), _checked_relation(neighboring_relation)
    prv, reason = _epsilon_prv(key, delta, relation)
    gaussians, bounded = split_charges(charges)
    return EpsilonResult(
        pld=_epsilon_pld(key, delta, 1, relation),
        prv=prv,
        rdp=_epsilon_rdp(key, delta) if relation == ADD_OR_REMOVE_ONE else math.inf,
        delta=delta,
        neighboring_relation=relation,
        pld_rounding=_interval(key, delta, relation) * math.sqrt(key.num_steps),
        prv_reason=reason,
        versions={name: importlib.metadata.version(name) for name in ("dp-accounting", "opacus")},
        of_gaussians=compute_epsilon(gaussians, delta=delta, neighboring_relation=relation) if bounded else None,
    )


def quick_epsilon(
    charges: Iterable[AnyCharge], *, delta: float, neighboring_relation: str = ADD_OR_REMOVE_ONE
) -> EpsilonResult:
    """As compute_epsilon, about twenty times as fast: a coarser grid, and without PRV.

    Guarantee: pld and rdp are upper bounds on the true epsilon, pld less than 0.001 above that of compute_epsilon
    at the settings of training.
    """
    charges = tuple(charges)
    key, delta, relation = charge_key(charges), _checked_delta(delta), _checked_relation(neighboring_relation)
    coarseness = 10
    gaussians, bounded = split_charges(charges)
    return EpsilonResult(
        pld=_epsilon_pld(key, delta, coarseness, relation),
        prv=None,
        rdp=_epsilon_rdp(key, delta) if relation == ADD_OR_REMOVE_ONE else math.inf,
        delta=delta,
        neighboring_relation=relation,
        pld_rounding=coarseness * _interval(key, delta, relation) * math.sqrt(key.num_steps),
        prv_reason="left out of a quick answer",
        versions={"dp-accounting": importlib.metadata.version("dp-accounting")},
        of_gaussians=quick_epsilon(gaussians, delta=delta, neighboring_relation=relation) if bounded else None,
    )


def epsilon_without_amplification(
    charges: Iterable[AnyCharge], delta: float, *, neighboring_relation: str = ADD_OR_REMOVE_ONE
) -> float:
    """Epsilon if each record took part exactly once in every 1 / sample_rate steps, and one knew in which.

    That is what fixed passes over the data would cost: for n steps, sample_rate * n (rounded up) unsampled Gaussian
    mechanisms. Together these are one Gaussian with 1 / s^2 the sum of count / s_i^2 (Dong, Roth and Su 2022,
    corollary 3.3), so the number is exact up to PLD's rounding upwards, here on a coarse grid. Infinite when a charge
    is known by its bound only, which may itself rest on secret sampling.
    """
    gaussians, bounded = split_charges(charges)
    if bounded:
        return math.inf
    squared = sum(
        math.ceil(c.sample_rate * c.num_steps) / c.noise_multiplier**2
        for c in merge_charges(gaussians)
        if isinstance(c, Charge)
    )
    if squared == 0:
        return 0.0
    whole = Charge(
        mechanism="gaussian", noise_multiplier=1 / math.sqrt(squared), num_steps=1, purpose="no amplification"
    )
    return epsilon_pld([whole], delta, coarseness=10, neighboring_relation=neighboring_relation)


def check_agreement(result: EpsilonResult) -> None:
    """Refuses a result whose accountants contradict each other.

    PRV here is the upper end of an interval of half-width 0.01, so it must lie in
    [PLD - rounding, PLD + 0.012 + 0.0002 PLD]; the last term covers PRV's own delta error of delta/1000.
    RDP must not lie below PLD. Without PRV only RDP is left, which cannot see a PLD that is too low. Beside charges
    known by a bound only, RDP is infinite, which contradicts nothing, and the others are checked on their own. Under
    replace_one nothing but a finite PLD is checked.
    Guarantee: when this returns and prv is given, two unrelated codes put the same number on the charges.
    Raises PrivacyError.
    """
    if result.of_gaussians is not None:
        check_agreement(result.of_gaussians)
    numbers_ = f"PLD {result.pld:.6f}, PRV {result.prv}, RDP {result.rdp:.6f} at delta {result.delta}"
    if not (math.isfinite(result.pld) and result.pld >= 0):
        raise PrivacyError(f"no finite epsilon: {numbers_}; use more noise or fewer steps")
    slack = 1e-6 + result.pld_rounding
    if math.isnan(result.rdp) or result.rdp < result.pld - slack:
        raise PrivacyError(f"accountants disagree, RDP is below PLD: {numbers_}; report this as a bug")
    if result.prv is None:
        return
    if math.isnan(result.prv) or result.pld > result.prv + slack:
        raise PrivacyError(f"accountants disagree, PLD is above PRV: {numbers_}; report this as a bug")
    if result.prv > result.pld + 0.012 + 2e-4 * result.pld:
        raise PrivacyError(f"accountants disagree, PRV is above PLD: {numbers_}; report this as a bug")


def _checked_delta(delta: float) -> float:
    if isinstance(delta, bool) or not isinstance(delta, (int, float)) or not 0 < delta < 1:
        raise SpecError(f"delta is {delta!r}; expected more than 0 and less than 1")
    return float(delta)


def _checked_relation(relation: str) -> str:
    if relation not in NEIGHBORING_RELATIONS:
        raise SpecError(f"neighboring_relation is {relation!r}; expected one of {', '.join(NEIGHBORING_RELATIONS)}")
    return relation


def _bound(key: ChargeKey, delta: float, relation: str) -> float:
    """A rough idea of epsilon, to choose a grid by: never infinite where PLD can give a finite one."""
    bounds = [bound_in_relation(b, is_replace_one=relation == REPLACE_ONE)[0] for b in key.bounds]
    if any(epsilon > _MOST_BOUND for epsilon in bounds):
        return math.inf
    # A record replaced is one removed and one added.
    return (2 if relation == REPLACE_ONE else 1) * _epsilon_rdp(key._replace(bounds=()), delta) + sum(bounds)


def _interval(key: ChargeKey, delta: float, relation: str) -> float:
    bound = _bound(key, delta, relation)
    if bound <= _FULL_RESOLUTION_UP_TO_EPSILON:
        return VALUE_DISCRETIZATION_INTERVAL
    if not math.isfinite(bound):
        return math.inf
    return VALUE_DISCRETIZATION_INTERVAL * 2 ** math.ceil(math.log2(bound / _FULL_RESOLUTION_UP_TO_EPSILON))


@functools.lru_cache(maxsize=512)
def _epsilon_pld(key: ChargeKey, delta: float, coarseness: int, relation: str) -> float:
    if not any(key):
        return 0.0
    interval = _interval(key, delta, relation) * coarseness
    if not math.isfinite(interval):
        return math.inf
    bounds = [bound_in_relation(b, is_replace_one=relation == REPLACE_ONE) for b in key.bounds]
    if not key.gaussians and len(bounds) == 1:
        return epsilon_of_one_bound(*bounds[0], delta)
    return epsilon_on_grid(key.gaussians, bounds, delta, interval=interval, relation=_RELATIONS[relation])


@functools.lru_cache(maxsize=512)
def _epsilon_rdp(key: ChargeKey, delta: float) -> float:
    if not any(key):
        return 0.0
    if key.bounds or min(noise_multiplier for _, _, noise_multiplier, _ in key.gaussians) < _LEAST_NOISE_MULTIPLIER:
        return math.inf
    with quiet_absl():
        accountant = rdp.RdpAccountant(neighboring_relation=_RELATIONS[ADD_OR_REMOVE_ONE])
        return float(accountant.compose(event_of(key)).get_epsilon(delta))


@functools.lru_cache(maxsize=128)
def _epsilon_prv(key: ChargeKey, delta: float, relation: str) -> tuple[float | None, str | None]:
    if not any(key):
        return 0.0, None
    if relation == REPLACE_ONE:
        return None, _PLD_ALONE
    if key.bounds:
        return None, _KNOWN_BY_BOUND
    return epsilon_prv([m[1:] for m in key.gaussians], delta, epsilon_rdp_fn=functools.partial(_epsilon_rdp, key))
