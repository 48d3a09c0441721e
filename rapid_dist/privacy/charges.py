"""What one use of the private data costs, written as data: a mechanism, its parameters and a count."""

from __future__ import annotations

import json
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

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
    gaussians, bounded = [], []
    for charge in charges:
        if not isinstance(charge, (Charge, BoundedCharge)):
            raise SpecError(f"got {type(charge).__name__}; expected a Charge, nothing else can be accounted for")
        (gaussians if isinstance(charge, Charge) else bounded).append(charge)
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
