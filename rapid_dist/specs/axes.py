"""An axis of a search: the values one setting may take, the law they are drawn by, and how a spec file writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rapid_dist.errors import SpecError
from rapid_dist.specs.parsing import nearest_name, require

if TYPE_CHECKING:
    import numpy as np

KINDS = ("choice", "uniform", "log", "int", "log_int")
Value = Any


@dataclass(frozen=True, kw_only=True)
class Axis:
    """kind: choice of values; uniform or log between low and high; int or log_int between them, both included."""

    kind: str
    values: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: int = 1  # of int

    def draw(self, rng: np.random.Generator) -> Value:
        """One value, by its law: choices alike, numbers uniform, or uniform in the logarithm."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        if self.kind == "uniform":
            return float(rng.uniform(self.low, self.high))
        if self.kind == "log":
            return self._within(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        if self.kind == "int":
            return int(self.low) + self.step * int(rng.integers((int(self.high) - int(self.low)) // self.step + 1))
        drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return int(self._within(round(drawn)))

    def examples(self) -> tuple[Value, ...]:
        """Values of every kind that draw may return: all choices, or both ends."""
        if self.kind == "choice":
            return self.values
        return tuple(int(e) if self.kind in ("int", "log_int") else e for e in (self.low, self.high))

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    @property
    def is_log(self) -> bool:
        """Whether the axis reads best on a logarithmic scale."""
        return self.kind in ("log", "log_int")

    def to_plain(self) -> Any:
        """As written in a spec."""
        if self.kind == "choice":
            return {"choice": list(self.values)}
        return {self.kind: list(self.examples()), **({"step": self.step} if self.step != 1 else {})}


def parse_axis(name: str, value: Any) -> Axis:
    """A list is a choice; else one of {choice: [...]}, {uniform: [a, b]}, {log: ...}, {int: ...}, {log_int: ...}.

    Raises SpecError.
    """
    if isinstance(value, list | tuple):
        value = {"choice": value}
    if not isinstance(value, Mapping):
        raise SpecError(f"{name} is {value!r}; expected a list of values, or one of {', '.join(KINDS)}")
    value = dict(value)
    step = value.pop("step", 1)
    if len(value) != 1:
        raise SpecError(f"{name} has {sorted(map(str, value))}; expected exactly one of {', '.join(KINDS)}")
    ((kind, content),) = value.items()
    require(kind in KINDS, f"{name} has {kind!r}: {nearest_name(str(kind), KINDS)}")
    if not isinstance(content, list | tuple) or not content:
        raise SpecError(f"{name}.{kind} is {content!r}; expected a list")
    if kind == "choice":
        require(step == 1, f"{name} has a step, which belongs to int")
        return Axis(kind=kind, values=tuple(_number(v) for v in content))
    ends = [_number(v) for v in content]
    numeric = all(isinstance(e, int | float) and not isinstance(e, bool) and math.isfinite(e) for e in ends)
    if len(ends) != 2 or not numeric or not ends[0] < ends[1]:
        raise SpecError(f"{name}.{kind} is {content!r}; expected two numbers, the lower first")
    if kind in ("int", "log_int"):
        require(all(float(e).is_integer() for e in ends), f"{name}.{kind} is {content!r}; expected whole numbers")
    require(kind not in ("log", "log_int") or ends[0] > 0, f"{name}.{kind} is {content!r}; expected numbers above 0")
    require(
        step == 1 or (kind == "int" and isinstance(step, int) and step >= 1),
        f"{name}.step is {step!r}; expected a whole number of at least 1, with int",
    )
    return Axis(kind=kind, low=float(ends[0]), high=float(ends[1]), step=step)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 (no dot) as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


AXIS_SCHEMA = {
    "description": "A list is a choice of values; uniform and log are numbers between two ends, int and log_int whole "
    "numbers between them, both included; step belongs to int.",
    "anyOf": [
        {"type": "array", "minItems": 1},
        *(
            {
                "type": "object",
                "properties": {kind: {"type": "array", "minItems": 1}, "step": {"type": "integer", "minimum": 1}},
                "required": [kind],
                "additionalProperties": False,
            }
            for kind in KINDS
        ),
    ],
}
