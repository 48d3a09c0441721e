"""Two recordings that may differ by one record, and each way in which they may not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rapid_dist.audit.checks import Recording, replay_checks, steps_with_record, violations
from rapid_dist.errors import SpecError
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey

STEPS, COORDINATES, CANARIES = 6, 10, 4
INCLUDED = np.array([1, 0, 1, 1, 0, 0], dtype=bool)


def recording(sums: np.ndarray, **changes) -> Recording:
    noise = np.random.default_rng(1).normal(size=sums.shape)
    values = {
        "outcome": "completed",
        "call_digests": ("a", "b"),
        "clipped_sums": sums,
        "released": sums + noise,
        "attempts": np.ones(len(sums), dtype=np.int64),
        "public": {"charges": [1]},
    }
    return Recording(**{**values, **changes})


def pair() -> tuple[Recording, Recording]:
    sums = np.random.default_rng(0).normal(size=(STEPS, COORDINATES))
    moved = np.zeros_like(sums)
    moved[INCLUDED, 0] = 1.0  # a record clipped to the norm, where it takes part
    return recording(sums + moved), recording(sums)


def failed(one: Recording, other: Recording) -> str:
    own = np.zeros(CANARIES, dtype=bool)
    checks = replay_checks(one, other, included=INCLUDED, own=own, grid=2.0**-20, name="x")
    return "\n".join(check.words for check in violations(checks))


def test_one_clipped_record_passes():
    assert failed(*pair()) == ""


def test_a_clipped_sum_that_moves_too_far_is_named():
    one, other = pair()
    sums, released = one.clipped_sums.copy(), one.released.copy()
    sums[0, 1] += 0.02
    released[0, 1] += 0.02
    assert "clipped sum moves by" in failed(replace(one, clipped_sums=sums, released=released), other)


def test_a_step_without_the_record_may_not_move_at_all():
    one, other = pair()
    sums = one.clipped_sums.copy()
    sums[1, 1] += 1e-9
    assert "moves in steps without the record" in failed(replace(one, clipped_sums=sums), other)


def test_the_part_of_another_record_may_not_move():
    one, other = pair()
    sums, released = one.clipped_sums.copy(), one.released.copy()
    sums[0, -1] += 0.01
    released[0, -1] += 0.01
    sums[0, 0] -= 0.5
    released[0, 0] -= 0.5
    assert failed(replace(one, clipped_sums=sums, released=released), other).count("\n") == 0
    assert "part of other records" in failed(replace(one, clipped_sums=sums, released=released), other)


def test_another_normaliser_is_named():
    one, other = pair()
    assert "the release moves" in failed(replace(one, released=one.released * 1.01), other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"call_digests": ("a", "c")}, "workers whose calls to the others differ: 1"),
        ({"public": {"charges": [2]}}, "public values that differ: 1"),
        ({"outcome": "PrivacyError: no"}, "runs that end in another way: 1"),
        ({"is_same_on_all_workers": False}, "workers hold different releases: 1"),
    ],
)
def test_what_must_be_equal_is_named(changes, words):
    one, other = pair()
    assert words in failed(replace(one, **changes), other)


def test_a_run_that_ends_early_is_named_and_the_rest_is_not_compared():
    one, other = pair()
    short = replace(one, clipped_sums=one.clipped_sums[:2], released=one.released[:2])
    assert "steps taken by only one of the runs: 4" in failed(short, other)


def test_nan_in_a_sum_is_a_violation():
    one, other = pair()
    sums = one.clipped_sums.copy()
    sums[0, 0] = np.nan
    assert "clipped sum moves by" in failed(replace(one, clipped_sums=sums), other)


def test_groups_of_different_size_are_not_compared():
    one, other = pair()
    with pytest.raises(SpecError, match="workers"):
        failed(replace(one, call_digests=("a",)), other)


def test_steps_with_a_record_are_those_the_sampler_says():
    found = steps_with_record(5, 9, attempts=np.array([1, 1, 2, 2]), sample_rate=0.5)
    key, ids = RunKey.fixed_for_debugging(9), np.array([4, 5])
    expected = [
        draw_inclusion(key, attempt=attempt, step=step, example_ids=ids, sample_rate=0.5)[1]
        for step, attempt in enumerate((1, 1, 2, 2))
    ]
    assert found.tolist() == expected
