"""One thing the audit looked at: what was found, what was allowed, and whether that is a violation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Check:
    """found must lie in [low, high]; outside, the check names a violation of the guarantee.

    layer: source, replay, noise, inclusion, restart or canaries. name says what is held, in words.
    """

    layer: str
    name: str
    found: float
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        for name in ("found", "low", "high"):  # numpy's numbers are not JSON's
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def passed(self) -> bool:
        return self.low <= self.found <= self.high  # False for NaN

    @property
    def words(self) -> str:
        """One line for people."""
        return f"{self.layer}: {self.name}: {self.found:.6g}, {_allowed(self.low, self.high)}"

    def to_plain(self) -> dict[str, Any]:
        """JSON values; an open end and a value that is not finite are None."""
        plain = {k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in asdict(self).items()}
        return {**plain, "passed": self.passed}


def violations(checks: Iterable[Check]) -> tuple[Check, ...]:
    """The checks that failed."""
    return tuple(check for check in checks if not check.passed)


def _allowed(low: float, high: float) -> str:
    if low == high:
        return f"expected {low:.6g}"
    if math.isinf(low):
        return f"at most {high:.6g}"
    return f"at least {low:.6g}" if math.isinf(high) else f"expected {low:.6g} to {high:.6g}"
