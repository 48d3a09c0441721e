"""From what the layers found to one answer: the bounds beside the claim, what was violated, passed or not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rapid_dist.privacy.audit.checks import Check, violations
from rapid_dist.privacy.audit.estimators import LowerBounds, lower_bounds

ROOM = 0.01  # a bound may exceed the claim by this much before it counts: the claim itself is computed to less
LEAST_STRENGTH = 0.5  # of the claim, which the GDP estimate must reach with every record in every step


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """The canaries of all rounds of one kind: their scores and coins (n,), and epsilon as claimed and as bounded.

    setting: sample_rate, noise_multiplier, steps and delta of each round.
    """

    name: str
    setting: dict[str, float]
    scores: np.ndarray
    is_in: np.ndarray
    claimed_epsilon: float
    bounds: LowerBounds

    def checks(self) -> tuple[Check, ...]:
        """No bound may be over the claim."""
        high = self.claimed_epsilon + ROOM
        return tuple(
            Check(layer="canaries", name=f"{self.name}: epsilon is at least ({reading})", found=value, high=high)
            for reading, value in asdict(self.bounds).items()
        )

    def strength(self) -> Check:
        """The GDP estimate must come near the claim: an audit that finds nothing must have been able to."""
        name = f"{self.name}: GDP estimate over the claim, which shows the strength of the audit"
        share = self.bounds.gdp / self.claimed_epsilon
        return Check(layer="canaries", name=name, found=share, low=LEAST_STRENGTH)

    def to_plain(self) -> dict[str, Any]:
        """The numbers without the scores."""
        return {
            **self.setting,
            "num_canaries": len(self.scores),
            "claimed_epsilon": self.claimed_epsilon,
            "gdp_estimate": self.bounds.gdp,
            "one_run_lower_bound": self.bounds.one_run,
            "clopper_pearson_lower_bound": self.bounds.clopper_pearson,
        }


def judge_canaries(
    name: str,
    setting: dict[str, float],
    scores: np.ndarray,
    is_in: np.ndarray,
    *,
    claimed_epsilon: float,
    significance: float,
) -> CanaryResult:
    """Bounds epsilon from the pooled canaries of all rounds; setting holds delta."""
    bounds = lower_bounds(scores, is_in, delta=setting["delta"], significance=significance)
    return CanaryResult(
        name=name, setting=setting, scores=scores, is_in=is_in, claimed_epsilon=claimed_epsilon, bounds=bounds
    )


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """All checks of all layers; full_batch is the run with every record in every step, sampled the given mechanism."""

    checks: tuple[Check, ...]
    full_batch: CanaryResult
    sampled: CanaryResult

    @property
    def all_checks(self) -> tuple[Check, ...]:
        return (*self.checks, *self.full_batch.checks(), self.full_batch.strength(), *self.sampled.checks())

    @property
    def violations(self) -> tuple[Check, ...]:
        return violations(self.all_checks)

    @property
    def passed(self) -> bool:
        return not self.violations

    def to_plain(self) -> dict[str, Any]:
        """One JSON object; the numbers at its top are those of the run with every record in every step."""
        layers: dict[str, dict[str, int]] = {}
        for check in self.all_checks:
            layer = layers.setdefault(check.layer, {"checks": 0, "violations": 0})
            layer["checks"] += 1
            layer["violations"] += not check.passed
        full = self.full_batch.to_plain()
        headline = ("claimed_epsilon", "gdp_estimate", "one_run_lower_bound", "clopper_pearson_lower_bound")
        return {
            **{name: full[name] for name in headline},
            "passed": self.passed,
            "violations": [check.words for check in self.violations],
            "full_batch": full,
            "sampled": self.sampled.to_plain(),
            "layers": layers,
            "checks": [check.to_plain() for check in self.all_checks],
        }
