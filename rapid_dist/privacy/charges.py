"""What one use of the private data costs, written as data: a mechanism, its parameters and a count."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

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
        object.__setattr__(self, "noise_multiplier", _as_float("noise_multiplier", self.noise_multiplier))
        object.__setattr__(self, "sample_rate", _as_float("sample_rate", self.sample_rate))
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
        expected = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != expected:
            got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise SpecError(f"a charge has {got}; expected exactly {sorted(expected)}")
        return cls(**values)


def merge_charges(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """Adds up num_steps of equal mechanisms, in an order that depends only on what was charged.

    Guarantee: exact. Composition does not care about order, and n uses followed by m uses of one mechanism
    are n + m uses of it, so the merged charges have the same privacy loss as the given ones.
    """
    steps: dict[tuple[str, float, float], int] = {}
    purposes: dict[tuple[str, float, float], set[str]] = {}
    for charge in charges:
        if not isinstance(charge, Charge):
            raise SpecError(f"got {type(charge).__name__}; expected a Charge, nothing else can be accounted for")
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


def _as_float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise SpecError(f"{name} is {value!r}; expected a finite number")
    return float(value)
