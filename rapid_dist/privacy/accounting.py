"""Epsilon of a list of charges, by three accountants that share no code path, and the check that they agree.

The reported value is PLD (privacy loss distributions, connect-the-dots, rounded towards more loss). PRV is
the two-sided cross-check, RDP a looser upper bound. The Gaussian/CLT approximation is never offered: it
lies below the true value. Each number is for one neighbouring relation: noise multipliers are always over the
clipping norm, and that a replaced record moves the sum by up to twice that norm is counted here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import dp_accounting
import numpy as np
from dp_accounting import pld, rdp
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.charges import Charge, merge_charges
from rapid_dist.privacy.prv import epsilon_prv
from rapid_dist.privacy.replace_one import renyi_divergences

ADD_OR_REMOVE_ONE, REPLACE_ONE = NEIGHBORING_RELATIONS = ("add_or_remove_one", "replace_one")
VALUE_DISCRETIZATION_INTERVAL = 1e-4
_RELATIONS = {
    ADD_OR_REMOVE_ONE: dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    REPLACE_ONE: dp_accounting.NeighboringRelation.REPLACE_ONE,
}
_FULL_RESOLUTION_UP_TO_EPSILON = 32.0
_LEAST_NOISE_MULTIPLIER = 1e-3  # below it epsilon is over 10^5 where it is not infinite: it is called infinite
_MOST_NOISE_MULTIPLIER = 1e6  # above it accountants lose digits: more noise is counted as this much

# (mechanism, sample_rate, noise_multiplier, num_steps): all of a charge that changes a number.
_Key = tuple[tuple[str, float, float, int], ...]


@dataclass(frozen=True, kw_only=True)
class EpsilonResult:
    """Epsilon at one delta by three accountants. prv is None when it cannot be computed; see prv_reason.

    pld_rounding: how far the rounding of PLD's grid may lift it: each step's loss moves within a cell of
    width h, which adds at most h^2/4 of variance a step; h * sqrt(num_steps) is two standard deviations.
    """

    pld: float
    prv: float | None
    rdp: float
    delta: float
    neighboring_relation: str = ADD_OR_REMOVE_ONE
    pld_rounding: float = 0.0
    prv_reason: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


def epsilon_pld(
    charges: Iterable[Charge],
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
    return _epsilon_pld(_key(charges), _checked_delta(delta), coarseness, _checked_relation(neighboring_relation))


def epsilon_rdp(charges: Iterable[Charge], delta: float, *, neighboring_relation: str = ADD_OR_REMOVE_ONE) -> float:
    """Epsilon by Renyi differential privacy over dp_accounting's default orders.

    Guarantee: an upper bound on the true epsilon at delta; orders that do not converge only loosen it.
    """
    return _epsilon_rdp(_key(charges), _checked_delta(delta), _checked_relation(neighboring_relation))


def is_within(
    charges: Iterable[Charge], delta: float, limit: float, *, neighboring_relation: str = ADD_OR_REMOVE_ONE
) -> bool:
    """Whether epsilon_pld is at most limit, the same answer about ten times as fast where there is room to spare.

    A grid ten times coarser gives no smaller an epsilon, so when that one fits the finer one does.
    """
    charges = tuple(charges)
    return any(
        epsilon_pld(charges, delta, coarseness=c, neighboring_relation=neighboring_relation) <= limit for c in (10, 1)
    )


def compute_epsilon(
    charges: Iterable[Charge], *, delta: float, neighboring_relation: str = ADD_OR_REMOVE_ONE
) -> EpsilonResult:
    """Epsilon of all charges together at delta by PLD, PRV and RDP, with the versions that computed it.

    Guarantee: pld and rdp are upper bounds on the true epsilon; a run must report pld, and only after
    check_agreement passed.
    """
    key, delta, relation = _key(charges), _checked_delta(delta), _checked_relation(neighboring_relation)
    prv, reason = _epsilon_prv(key, delta, relation) if key else (0.0, None)
    num_steps = sum(n for *_, n in key)
    return EpsilonResult(
        pld=_epsilon_pld(key, delta, 1, relation),
        prv=prv,
        rdp=_epsilon_rdp(key, delta, relation),
        delta=delta,
        neighboring_relation=relation,
        pld_rounding=_interval(key, delta, relation) * math.sqrt(num_steps),
        prv_reason=reason,
        versions={name: importlib.metadata.version(name) for name in ("dp-accounting", "opacus")},
    )


def quick_epsilon(
    charges: Iterable[Charge], *, delta: float, neighboring_relation: str = ADD_OR_REMOVE_ONE
) -> EpsilonResult:
    """As compute_epsilon, about twenty times as fast: a coarser grid, and without PRV.

    Guarantee: pld and rdp are upper bounds on the true epsilon, pld less than 0.001 above that of compute_epsilon
    at the settings of training.
    """
    key, delta, relation = _key(charges), _checked_delta(delta), _checked_relation(neighboring_relation)
    coarseness = 10
    return EpsilonResult(
        pld=_epsilon_pld(key, delta, coarseness, relation),
        prv=None,
        rdp=_epsilon_rdp(key, delta, relation),
        delta=delta,
        neighboring_relation=relation,
        pld_rounding=coarseness * _interval(key, delta, relation) * math.sqrt(sum(n for *_, n in key)),
        prv_reason="left out of a quick answer",
        versions={"dp-accounting": importlib.metadata.version("dp-accounting")},
    )


def epsilon_without_amplification(
    charges: Iterable[Charge], delta: float, *, neighboring_relation: str = ADD_OR_REMOVE_ONE
) -> float:
    """Epsilon if each record took part exactly once in every 1 / sample_rate steps, and one knew in which.

    That is what fixed passes over the data would cost: for n steps, sample_rate * n (rounded up) unsampled Gaussian
    mechanisms. Together these are one Gaussian with 1 / s^2 the sum of count / s_i^2 (Dong, Roth and Su 2022,
    corollary 3.3), so the number is exact up to PLD's rounding upwards, here on a coarse grid.
    """
    squared = sum(math.ceil(c.sample_rate * c.num_steps) / c.noise_multiplier**2 for c in merge_charges(charges))
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
    RDP must not lie below PLD. Without PRV only RDP is left, which cannot see a PLD that is too low.
    Guarantee: when this returns and prv is given, two unrelated codes put the same number on the charges.
    Raises PrivacyError.
    """
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


def _key(charges: Iterable[Charge]) -> _Key:
    merged = merge_charges(charges)
    return tuple(
        (c.mechanism, c.sample_rate, min(c.noise_multiplier, _MOST_NOISE_MULTIPLIER), c.num_steps) for c in merged
    )


def _checked_delta(delta: float) -> float:
    if isinstance(delta, bool) or not isinstance(delta, (int, float)) or not 0 < delta < 1:
        raise SpecError(f"delta is {delta!r}; expected more than 0 and less than 1")
    return float(delta)


def _checked_relation(relation: str) -> str:
    if relation not in NEIGHBORING_RELATIONS:
        raise SpecError(f"neighboring_relation is {relation!r}; expected one of {', '.join(NEIGHBORING_RELATIONS)}")
    return relation


def _gaussian(_: float, noise_multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.GaussianDpEvent(noise_multiplier)


def _poisson_gaussian(sample_rate: float, noise_multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.PoissonSampledDpEvent(sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier))


# The only events ever built; a mechanism missing here is a KeyError, not a free release.
_EVENTS = {"gaussian": _gaussian, "poisson_gaussian": _poisson_gaussian}


def dp_event(charges: Iterable[Charge]) -> dp_accounting.DpEvent:
    """The charges in dp_accounting's words. Raises SpecError for anything but a charge."""
    return _event(_key(charges))


def _event(key: _Key) -> dp_accounting.DpEvent:
    events = [dp_accounting.SelfComposedDpEvent(_EVENTS[name](q, sigma), n) for name, q, sigma, n in key]
    return dp_accounting.ComposedDpEvent(events)


def _interval(key: _Key, delta: float, relation: str) -> float:
    bound = _epsilon_rdp(key, delta, relation)
    if bound <= _FULL_RESOLUTION_UP_TO_EPSILON:
        return VALUE_DISCRETIZATION_INTERVAL
    if not math.isfinite(bound):
        return math.inf
    return VALUE_DISCRETIZATION_INTERVAL * 2 ** math.ceil(math.log2(bound / _FULL_RESOLUTION_UP_TO_EPSILON))


@functools.lru_cache(maxsize=512)
def _epsilon_pld(key: _Key, delta: float, coarseness: int, relation: str) -> float:
    if not key:
        return 0.0
    interval = _interval(key, delta, relation) * coarseness
    if not math.isfinite(interval):
        return math.inf
    return float(pld.PLDAccountant(_RELATIONS[relation], interval).compose(_event(key)).get_epsilon(delta))


@functools.lru_cache(maxsize=512)
def _epsilon_rdp(key: _Key, delta: float, relation: str) -> float:
    if not key:
        return 0.0
    if min(noise_multiplier for _, _, noise_multiplier, _ in key) < _LEAST_NOISE_MULTIPLIER:
        return math.inf
    if relation == REPLACE_ONE:
        return _rdp_replace_one(key, delta)
    with quiet_absl():
        accountant = rdp.RdpAccountant(neighboring_relation=_RELATIONS[relation])
        return float(accountant.compose(_event(key)).get_epsilon(delta))


def _rdp_replace_one(key: _Key, delta: float) -> float:
    """Renyi divergences add up over steps; dp_accounting only turns them into epsilon."""
    orders = DEFAULT_RDP_ORDERS
    total = np.zeros(len(orders))
    for _, sample_rate, noise_multiplier, num_steps in key:
        total += num_steps * _divergences(sample_rate, noise_multiplier)
    return float(rdp.compute_epsilon(orders, total, delta)[0])


@functools.lru_cache(maxsize=64)
def _divergences(sample_rate: float, noise_multiplier: float) -> np.ndarray:
    return renyi_divergences(sample_rate, noise_multiplier, DEFAULT_RDP_ORDERS)


@functools.lru_cache(maxsize=128)
def _epsilon_prv(key: _Key, delta: float, relation: str) -> tuple[float | None, str | None]:
    def bound(mechanisms: Sequence[tuple[float, float, int]], at_delta: float) -> float:
        return _epsilon_rdp(tuple(("poisson_gaussian", *m) for m in mechanisms), at_delta, relation)

    return epsilon_prv([m[1:] for m in key], delta, is_replace_one=relation == REPLACE_ONE, epsilon_rdp_fn=bound)


@contextlib.contextmanager
def quiet_absl() -> Iterator[None]:
    """Drops dp_accounting's note that an order was left out, which only loosens the bound."""

    def keep(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
