"""What a mechanism costs, as frozen data: Gaussian charges with their events, and charges known by a bound."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple

import dp_accounting
from dp_accounting import rdp
from dp_accounting.dp_event import RepeatAndSelectDpEvent

from rapid_dist.errors import SpecError

MECHANISMS = ("poisson_gaussian", "gaussian")
MAX_NUM_STEPS = 10**6  # as far as the accountants were tried; beyond, their time and memory explode


@dataclass(frozen=True, kw_only=True)
class Charge:
    """num_steps uses of one Gaussian mechanism; what they cost depends on the neighbouring relation asked for.

    mechanism: "poisson_gaussian" (each record joins a step with probability sample_rate, on its own) or
    "gaussian" (every record joins). sample_rate: 1 for gaussian; the default claims no amplification.
    noise_multiplier: noise stddev over the most one record adds to the sum in L2 norm (the clipping norm).
    purpose: what the mechanism computes, e.g. "training"; for people only, it changes no number.

    Guarantee: a charge holds public constants only, so it may be written down before the mechanism runs.
    Raises SpecError when a value is outside its range.
    """

    mechanism: str
    noise_multiplier: float
    sample_rate: float = 1.0
    num_steps: int
    purpose: str

    def __post_init__(self) -> None:
        if self.mechanism not in MECHANISMS:
            raise SpecError(f"mechanism is {self.mechanism!r}; expected one of {', '.join(MECHANISMS)}")
        object.__setattr__(self, "noise_multiplier", as_float("noise_multiplier", self.noise_multiplier))
        object.__setattr__(self, "sample_rate", as_float("sample_rate", self.sample_rate))
        if self.noise_multiplier <= 0:
            raise SpecError(f"noise_multiplier is {self.noise_multiplier}; expected more than 0")
        if not 0 < self.sample_rate <= 1:
            raise SpecError(f"sample_rate is {self.sample_rate}; expected more than 0 and at most 1")
        if self.mechanism == "gaussian" and self.sample_rate != 1:
            raise SpecError(
                f"sample_rate is {self.sample_rate} for mechanism gaussian; expected 1.0, or poisson_gaussian"
            )
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, numbers.Integral):
            raise SpecError(f"num_steps is {self.num_steps!r}; expected a whole number")
        object.__setattr__(self, "num_steps", int(self.num_steps))
        if not 1 <= self.num_steps <= MAX_NUM_STEPS:
            raise SpecError(f"num_steps is {self.num_steps}; expected 1 to {MAX_NUM_STEPS}")
        if not isinstance(self.purpose, str) or not self.purpose:
            raise SpecError(f"purpose is {self.purpose!r}; expected a few words, e.g. 'training'")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; from_dict gives the same charge back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Charge:
        """Raises SpecError for a missing or unknown key: what is not understood is never counted as free."""
        require_keys(values, {field.name for field in fields(cls)})
        return cls(**values)


def training_charge(*, sample_rate: float, noise_multiplier: float, num_steps: int) -> Charge:
    """Returns the charge of num_steps steps of DP-SGD; the one place where the mechanism of a step is written down.

    Args:
        sample_rate: Probability with which each record joins a step, at most 1.
        noise_multiplier: Noise stddev over the clipping norm.
        num_steps: How many steps are charged.

    Guarantee: whoever plans, calibrates, audits or pays for a step names the same mechanism, Poisson sampling at every
    rate, also at rate 1 where nobody is left out.
    Raises SpecError when a value is outside its range.
    """
    return Charge(
        mechanism="poisson_gaussian",
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        num_steps=num_steps,
        purpose="training",
    )


class BoundedCharge(ABC):
    """One use of the private data that is no Gaussian mechanism: all that is counted of it is a proved bound.

    Guarantee: bound follows from public parameters alone and is worked out anew from them, never read back.
    """

    mechanism: ClassVar[str]
    num_steps: ClassVar[int] = 1
    purpose: str

    @property
    @abstractmethod
    def bound(self) -> tuple[float, float]:
        """(epsilon, delta) of this use, under adding or removing one record."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What was done and how the bound follows, one sentence without the numbers of the bound."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""


AnyCharge = Charge | BoundedCharge


def require_keys(values: Any, expected: set[str]) -> None:
    """Raises SpecError unless values is a mapping with exactly these keys."""
    if not isinstance(values, Mapping) or set(values) != expected:
        got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
        raise SpecError(f"a charge has {got}; expected exactly {sorted(expected)}")


def split_charges(charges: Iterable[AnyCharge]) -> tuple[tuple[Charge, ...], tuple[BoundedCharge, ...]]:
    """The Gaussian charges and those known by a bound only, each in the order given.

    Raises SpecError for anything else: nothing else can be accounted for.
    """
    gaussians: list[Charge] = []
    bounded: list[BoundedCharge] = []
    for charge in charges:
        if isinstance(charge, Charge):
            gaussians.append(charge)
        elif isinstance(charge, BoundedCharge):
            bounded.append(charge)
        else:
            raise SpecError(f"got {type(charge).__name__}; expected a Charge, nothing else can be accounted for")
    return tuple(gaussians), tuple(bounded)


def merge_charges(charges: Iterable[AnyCharge]) -> tuple[AnyCharge, ...]:
    """Adds up num_steps of equal mechanisms, in an order that depends only on what was charged.

    Charges known by a bound follow the Gaussian ones, each on its own: two equal ones are two.
    Guarantee: exact. Composition does not care about order, and n uses followed by m uses of one mechanism
    are n + m uses of it, so the merged charges have the same privacy loss as the given ones.
    """
    gaussians, bounded = split_charges(charges)
    return (*_merged(gaussians), *sorted(bounded, key=lambda c: json.dumps(c.to_dict(), sort_keys=True)))


def _merged(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    steps: dict[tuple[str, float, float], int] = {}
    purposes: dict[tuple[str, float, float], set[str]] = {}
    for charge in charges:
        key = (charge.mechanism, charge.sample_rate, charge.noise_multiplier)
        steps[key] = steps.get(key, 0) + charge.num_steps
        purposes.setdefault(key, set()).add(charge.purpose)
    return tuple(
        Charge(
            mechanism=key[0],
            sample_rate=key[1],
            noise_multiplier=key[2],
            num_steps=steps[key],
            purpose=", ".join(sorted(purposes[key])),
        )
        for key in sorted(steps)
    )


def as_float(name: str, value: Any) -> float:
    """The value as a float. Raises SpecError unless it is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise SpecError(f"{name} is {value!r}; expected a finite number")
    return float(value)


_MOST_NOISE_MULTIPLIER = 1e6  # above it accountants lose digits: more noise is counted as this much


class ChargeKey(NamedTuple):
    """All of some charges that changes a number, whatever their order.

    gaussians: (mechanism, sample_rate, noise_multiplier, num_steps) each. bounds: (epsilon, delta) each.
    """

    gaussians: tuple[tuple[str, float, float, int], ...]
    bounds: tuple[tuple[float, float], ...] = ()

    @property
    def num_steps(self) -> int:
        """num_steps of all Gaussian mechanisms together."""
        return sum(n for *_, n in self.gaussians)


def charge_key(charges: Iterable[AnyCharge]) -> ChargeKey:
    """Raises SpecError for anything but charges."""
    merged = merge_charges(charges)
    gaussians = tuple(
        (c.mechanism, c.sample_rate, min(c.noise_multiplier, _MOST_NOISE_MULTIPLIER), c.num_steps)
        for c in merged
        if isinstance(c, Charge)
    )
    return ChargeKey(gaussians, tuple(sorted(c.bound for c in merged if isinstance(c, BoundedCharge))))


def dp_event(charges: Iterable[Charge]) -> dp_accounting.DpEvent:
    """The charges in dp_accounting's words. Raises SpecError for anything but Gaussian charges."""
    key = charge_key(charges)
    if key.bounds:
        raise SpecError("a charge known only by a bound is no mechanism of dp_accounting; expected Gaussian charges")
    return event_of(key)


def event_of(key: ChargeKey) -> dp_accounting.DpEvent:
    """The Gaussian part of a key in dp_accounting's words."""
    events = [dp_accounting.SelfComposedDpEvent(_EVENTS[name](q, sigma), n) for name, q, sigma, n in key.gaussians]
    return dp_accounting.ComposedDpEvent(events)


def _gaussian(_: float, noise_multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.GaussianDpEvent(noise_multiplier)


def _poisson_gaussian(sample_rate: float, noise_multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.PoissonSampledDpEvent(sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier))


# The only events ever built; a mechanism missing here is a KeyError, not a free release.
_EVENTS = {"gaussian": _gaussian, "poisson_gaussian": _poisson_gaussian}


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


_MAX_EPSILON = 500.0  # e to the power of it is still a float


@dataclass(frozen=True, kw_only=True)
class BestRunCharge(BoundedCharge):
    """K runs that each make all charges, K secret and drawn once, of which only the best one's result leaves.

    num_runs, mean_runs: the law of K, as epsilon_of_best_run takes it. delta: where the bound is taken; whatever is
    charged beside this needs a delta of its own, so it must be below the delta that is promised for all.
    Guarantee: bound holds if no run costs more than charges, each run's settings are drawn on their own from a fixed
    law, and nothing but the best run and its settings is ever seen (Papernot and Steinke 2022, theorems 2 and 6).
    Raises SpecError when a value is outside its range.
    """

    mechanism: ClassVar[str] = "best_of_random_runs"
    charges: tuple[Charge, ...]
    num_runs: str
    mean_runs: float
    delta: float
    purpose: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "charges", tuple(self.charges))
        object.__setattr__(self, "mean_runs", as_float("mean_runs", self.mean_runs))
        if not self.charges or not all(isinstance(c, Charge) for c in self.charges):
            raise SpecError("the charges of a run are missing or not all Gaussian; expected at least one Charge")
        check_num_runs(self.num_runs, self.mean_runs)
        _set_delta(self)
        _check_purpose(self.purpose)

    @property
    def bound(self) -> tuple[float, float]:
        """(epsilon, delta) by Renyi differential privacy."""
        return _best_run_epsilon(self.charges, self.delta, self.mean_runs, self.num_runs), self.delta

    @property
    def words(self) -> str:
        """What was done and how the bound follows."""
        return (
            f"{self.purpose}: the best of a secret number of runs ({self.num_runs} law, mean {self.mean_runs:g}), of "
            "which no other result was kept, by Renyi differential privacy (Papernot and Steinke 2022)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; from_dict gives the same charge back."""
        return {**asdict(self), "charges": [c.to_dict() for c in self.charges], "mechanism": self.mechanism}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BestRunCharge:
        """Raises SpecError for a missing or unknown key."""
        rest = _values_of(cls, values)
        if not isinstance(rest["charges"], (list, tuple)):
            raise SpecError(f"the charges of a run are {rest['charges']!r}; expected a list")
        return cls(**{**rest, "charges": tuple(Charge.from_dict(c) for c in rest["charges"])})


@dataclass(frozen=True, kw_only=True)
class SubsetCharge(BoundedCharge):
    """Whatever ran, within (epsilon, delta), on a secret subset that each record joined on its own.

    subset_rate: the probability q to join. Guarantee: seen from all records it is (log(1 + q (e^epsilon - 1)), q delta)
    if the subset stays secret (Li, Qardaji and Su 2012; Balle, Barthe and Gaboardi 2018, theorem 8).
    Raises SpecError when a value is outside its range.
    """

    mechanism: ClassVar[str] = "poisson_subset"
    subset_rate: float
    epsilon: float
    delta: float
    purpose: str

    def __post_init__(self) -> None:
        for name in ("subset_rate", "epsilon"):
            object.__setattr__(self, name, as_float(name, getattr(self, name)))
        if not 0 < self.subset_rate <= 1:
            raise SpecError(f"subset_rate is {self.subset_rate}; expected more than 0 and at most 1")
        if not 0 < self.epsilon <= _MAX_EPSILON:
            raise SpecError(f"epsilon is {self.epsilon}; expected more than 0 and at most {_MAX_EPSILON:g}")
        _set_delta(self)
        _check_purpose(self.purpose)

    @property
    def bound(self) -> tuple[float, float]:
        """(epsilon, delta) seen from all records."""
        return math.log1p(self.subset_rate * math.expm1(self.epsilon)), self.subset_rate * self.delta

    @property
    def words(self) -> str:
        """What was done and how the bound follows."""
        return (
            f"{self.purpose}: all that ran on a secret Poisson subset of rate {self.subset_rate:g} within epsilon "
            f"{self.epsilon:g} at delta {self.delta:g} of its own, amplified by the secret sampling of the subset"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; from_dict gives the same charge back."""
        return {**asdict(self), "mechanism": self.mechanism}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SubsetCharge:
        """Raises SpecError for a missing or unknown key."""
        return cls(**_values_of(cls, values))


_BOUNDED = {cls.mechanism: cls for cls in (BestRunCharge, SubsetCharge)}


def charge_from_dict(values: Mapping[str, Any]) -> AnyCharge:
    """The charge that to_dict wrote, of whichever kind. Raises SpecError for what is not understood."""
    mechanism = values.get("mechanism") if isinstance(values, Mapping) else None
    kind = _BOUNDED.get(mechanism, Charge) if isinstance(mechanism, str) else Charge
    return kind.from_dict(values)


@functools.lru_cache(maxsize=128)
def _best_run_epsilon(charges: tuple[Charge, ...], delta: float, mean_runs: float, num_runs: str) -> float:
    return epsilon_of_best_run(charges, delta, mean_runs=mean_runs, num_runs=num_runs)


def _values_of(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a bounded charge, its mechanism checked and left out."""
    require_keys(values, {"mechanism", *(field.name for field in fields(cls))})
    if values["mechanism"] != cls.mechanism:
        raise SpecError(f"mechanism is {values['mechanism']!r}; expected {cls.mechanism}")
    return {name: value for name, value in values.items() if name != "mechanism"}


def _set_delta(charge: BestRunCharge | SubsetCharge) -> None:
    object.__setattr__(charge, "delta", as_float("delta", charge.delta))
    if not 0 < charge.delta < 1:
        raise SpecError(f"delta is {charge.delta}; expected more than 0 and less than 1")


def _check_purpose(purpose: Any) -> None:
    if not isinstance(purpose, str) or not purpose:
        raise SpecError(f"purpose is {purpose!r}; expected a few words, e.g. 'tuning'")
