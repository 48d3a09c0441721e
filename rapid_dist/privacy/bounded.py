"""Charges known by a proved (epsilon, delta) bound: the best of secretly many runs, and work on a secret subset."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from rapid_dist.errors import SpecError
from rapid_dist.privacy.charges import AnyCharge, BoundedCharge, Charge, as_float, require_keys
from rapid_dist.privacy.selection import check_num_runs, epsilon_of_best_run

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


def _values_of(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
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
