"""Two recorded runs that differ in one record, compared step by step: what may differ, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rapid_dist.errors import SpecError
from rapid_dist.privacy.audit.checks import Check
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey

LAYER = "replay"
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
    return Check(layer=LAYER, name=f"{name}: {what}", found=float(found), low=0, high=0)


def _at_most(name: str, what: str, found: float, high: float) -> Check:
    return Check(layer=LAYER, name=f"{name}: {what}", found=float(found), high=float(high))
