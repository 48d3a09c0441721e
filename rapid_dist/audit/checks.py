"""One thing an audit looked at, and what recordings of runs with and without a record, or with a restart, must show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rapid_dist.errors import SpecError
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey

if TYPE_CHECKING:
    from rapid_dist.privacy.plan import PrivacyPlan


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


REPLAY = "replay"
_FLOAT32_ULP = 2.0**-23


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What one run did, seen from outside the trainer.

    outcome: "completed", "stopped", or the error it ended with. call_digests: one a worker, over the kinds, shapes and
    order of all its calls to the others. clipped_sums: (T, P) float64, sums over workers before noise, in units of the
    clipping norm. released: (T, P) float64, what the optimiser was given times the public normaliser, same units.
    public: values that anyone may see, e.g. charges. attempts: (T,) int64, the attempt each step belongs to.
    """

    outcome: str
    call_digests: tuple[str, ...]
    clipped_sums: np.ndarray
    released: np.ndarray
    attempts: np.ndarray
    public: Mapping[str, Any] = field(default_factory=dict)
    is_same_on_all_workers: bool = True


def steps_with_record(example_id: int, debug_key: int, *, attempts: np.ndarray, sample_rate: float) -> np.ndarray:
    """Whether the record takes part in step t of the attempt attempts[t], (T,) bool, under a fixed debugging key."""
    key, ids = RunKey.fixed_for_debugging(debug_key), np.array([example_id], dtype=np.int64)
    return np.array(
        [
            draw_inclusion(key, attempt=int(attempt), step=step, example_ids=ids, sample_rate=sample_rate)[0]
            for step, attempt in enumerate(attempts)
        ],
        dtype=bool,
    )


def replay_checks(
    with_record: Recording, without: Recording, *, included: np.ndarray, own: np.ndarray, grid: float, name: str
) -> tuple[Check, ...]:
    """Compares the run on D with the run on D minus one record, under the same key and frozen weights.

    included: (T,) bool, whether the record takes part in each step. own: coordinates that only this record and its
    duplicates may touch among the last len(own) columns, (k,) bool: the canaries' coordinates. grid: the release is
    rounded to multiples of it, in units of the clipping norm.
    A guarantee by sensitivity says: same calls, same public values, a clipped sum that moves by at most the clipping
    norm where the record takes part and not at all elsewhere, no other record's part of it changed, and a release
    that moves as the sum does, for the noise and the normaliser are the same.
    """
    same = {
        "workers whose calls to the others differ": _differing(with_record.call_digests, without.call_digests),
        "public values that differ": _differing_values(with_record.public, without.public),
        "runs that end in another way": int(with_record.outcome != without.outcome),
        "runs whose workers hold different releases": sum(not r.is_same_on_all_workers for r in (with_record, without)),
        "steps taken by only one of the runs": abs(len(with_record.released) - len(without.released)),
    }
    checks = [_equal(name, what, found) for what, found in same.items()]
    if with_record.clipped_sums.shape != without.clipped_sums.shape or not len(without.released):
        return tuple(checks)
    steps = len(without.released)
    return (*checks, *_step_checks(with_record, without, included[:steps], own, grid, name))


def _step_checks(
    with_record: Recording, without: Recording, included: np.ndarray, own: np.ndarray, grid: float, name: str
) -> tuple[Check, ...]:
    moved = with_record.clipped_sums - without.clipped_sums
    released_moved = with_record.released - without.released
    lengths = np.linalg.norm(moved, axis=1)
    # The sums are float32 inside a worker, the releases float32 in the optimiser.
    rounding = 1e-6 + _FLOAT32_ULP * np.linalg.norm(without.clipped_sums, axis=1).max()
    release_rounding = 2 * grid + 4 * _FLOAT32_ULP * np.abs(without.released).max()
    foreign = moved[:, moved.shape[1] - len(own) :][:, ~own]
    return (
        _at_most(name, "the clipped sum moves by, in clipping norms", lengths.max(), 1 + rounding),
        _at_most(name, "the clipped sum moves in steps without the record by", _largest(lengths[~included]), 0),
        _at_most(name, "the release moves in steps without the record by", _largest(released_moved[~included]), 0),
        _at_most(name, "the part of other records moves by", _largest(foreign), rounding),
        _at_most(
            name, "the release moves otherwise than the sum by", _largest(released_moved - moved), release_rounding
        ),
    )


def _differing(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    if len(one) != len(other):
        raise SpecError(f"{len(one)} and {len(other)} workers were recorded; compare runs of one group")
    return sum(a != b for a, b in zip(one, other, strict=True))


def _differing_values(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    return sum(one.get(key) != other.get(key) for key in {*one, *other})


def _largest(values: np.ndarray) -> float:
    """The largest absolute value; NaN stays NaN, nothing is 0."""
    return float(np.abs(values).max()) if values.size else 0.0


def _equal(name: str, what: str, found: float) -> Check:
    return Check(layer=REPLAY, name=f"{name}: {what}", found=float(found), low=0, high=0)


def _at_most(name: str, what: str, found: float, high: float) -> Check:
    return Check(layer=REPLAY, name=f"{name}: {what}", found=float(found), high=float(high))


RESTART = "restart"


def restart_checks(seen: Recording, plan: PrivacyPlan) -> tuple[Check, ...]:
    """Checks of a run with one failure on its recording, whose public values hold what its ledger says.

    public: charges, plans, charged_steps, and charged_steps_at_failure as the ledger said when it failed.
    """
    public, last = seen.public, seen.attempts.max(initial=0)
    resumed = int((seen.attempts == last).sum())
    foreign = [
        charge
        for charge in public["charges"]
        if (charge["sample_rate"], charge["noise_multiplier"]) != (plan.sample_rate, plan.noise_multiplier)
    ]
    taken_back = public["charged_steps_at_failure"] + resumed - public["charged_steps"]
    found = {
        "the run did not complete": (float(seen.outcome != "completed"), 0),
        "workers hold different releases": (float(not seen.is_same_on_all_workers), 0),
        "releases that nothing in the ledger pays for": (len(seen.released) - public["charged_steps"], 0),
        "steps that the ledger has taken back": (taken_back, 0),
        "charges for another mechanism than the plan's": (len(foreign), 0),
    }
    attempts = Check(
        layer=RESTART, name="attempts that released something", found=len(np.unique(seen.attempts)), low=2, high=2
    )
    return (
        *(Check(layer=RESTART, name=name, found=float(value), high=high) for name, (value, high) in found.items()),
        attempts,
    )
