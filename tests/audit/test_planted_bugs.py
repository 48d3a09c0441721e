"""Every planted mistake is found by the layer that is meant to see it, and the trainer as it is has none."""

from __future__ import annotations

import pytest

from tests.audit.planted import BUGS
from tests.audit.runs import LAYERS, found_by
from tests.training import helpers

# The layer that finds it, and part of the words it finds it with.
FINDERS = {
    "noise_on_every_rank_then_averaged": ("restart", "standard deviation over the planned one: 0.70"),
    "same_noise_generator_on_all_ranks": ("restart", "stretches of noise that occur twice"),
    "same_sampling_generator_on_all_ranks": ("restart", "most steps that two records share"),
    "empty_batches_dropped": ("replay", "with the only record: workers whose calls to the others differ"),
    "mean_over_the_actual_batch": ("replay", "the part of other records moves"),
    "released_mean_over_the_actual_batch": ("replay", "the release moves otherwise than the sum"),
    "normaliser_from_len_dataset": ("replay", "the release moves in steps without the record"),
    "draws_clipped_as_separate_records": ("replay", "copy of a canary: the clipped sum moves by, in clipping norms: 2"),
    "clipping_per_layer": ("replay", "with a huge record: the clipped sum moves by, in clipping norms: 2.8"),
    "nan_record_poisons_the_sum": ("replay", "with a record of NaN: runs that end in another way"),
    "noise_key_reused_after_a_restart": ("restart", "largest correlation of two steps or attempts: 1,"),
    "ledger_restored_from_a_checkpoint": ("restart", "steps that the ledger has taken back"),
    "shuffling_in_place_of_poisson": ("restart", "variance of the batch size over N q (1 - q): 0,"),
    "sample_rate_off_by_two": ("restart", "share of records included"),
}


@pytest.mark.parametrize("bug", FINDERS)
def test_a_planted_bug_is_found(bug, monkeypatch, tmp_path):
    layer, words = FINDERS[bug]
    BUGS[bug](monkeypatch.setattr)
    assert words in found_by(layer, tmp_path)


def test_workers_that_skip_their_own_empty_batches_fall_out_of_step(monkeypatch, tmp_path):
    """One worker then waits for another, or gets an answer to a question it did not ask: the audit cannot end."""
    monkeypatch.setattr(helpers, "SECONDS_UNTIL_DEADLOCK", 5)
    BUGS["empty_local_batches_dropped"](monkeypatch.setattr)
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        found_by("replay", tmp_path)


def test_every_bug_has_a_finder():
    assert set(BUGS) == {*FINDERS, "empty_local_batches_dropped"}


@pytest.mark.parametrize(
    ("layer", "world_size"),
    [
        ("replay", 1),
        ("replay", 2),
        ("restart", 2),
        ("canaries", 2),
        pytest.param("replay", 3, marks=pytest.mark.slow),
        pytest.param("restart", 3, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_found_in_the_trainer_as_it_is(layer, world_size, tmp_path):
    assert found_by(layer, tmp_path, world_size=world_size) == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_found_in_twenty_audits(seed, tmp_path):
    for layer in LAYERS:
        assert found_by(layer, tmp_path / layer) == ""
