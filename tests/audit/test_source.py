"""The layer `source` finds mistakes by which a record tells of the others, and none on the right code."""

from __future__ import annotations

import pytest

from rapid_dist.audit.checks import violations
from rapid_dist.audit.source import FIELDS, source_layer
from rapid_dist.audit.source_files import KINDS, REMOVALS
from rapid_dist.audit.trials import AuditSettings
from rapid_dist.storage.store import Store
from tests.audit.planted import SOURCE_BUGS

FOLDERS, FLAT, PARQUET, NPZ = KINDS
FIRST = "without the first record, the only one of its class"

# The kind of source that shows it, and part of the words it is found with.
FINDERS = {
    "positions_as_addresses": (FLAT, f"flat folder {FIRST}: other records whose draws changes"),
    "labels_from_the_listing": (FOLDERS, f"class folders {FIRST}: other records whose label changes: 10,"),
    "image_shape_from_the_first_file": (FOLDERS, f"class folders {FIRST}: other records whose image changes"),
    "normaliser_from_the_data": (PARQUET, "Parquet without the last record: other records whose latent changes"),
    "statistics_over_the_realised_class_size": (FOLDERS, "the class statistics move by (L2)"),
    "statistics_clipped_after_the_sum": (PARQUET, "the class statistics move by (L2)"),
    "second_moment_unclipped": (NPZ, "the class statistics move by (L2)"),
    "classes_parted_at_the_realised_median": (PARQUET, "the class statistics move by (L2)"),
    "parts_taken_as_a_source": (NPZ, "npz: parts of a dataset that are read as a source: 4,"),
}


def found_in(kinds, path, seed: int = 0) -> str:
    """The words of all violations, one a line."""
    checks = source_layer(AuditSettings(seed=seed), Store(path), kinds=kinds)
    assert len(checks) == len(kinds) * (1 + len(REMOVALS) * (len(FIELDS) + 5))
    return "\n".join(check.words for check in violations(checks))


@pytest.mark.parametrize("bug", FINDERS)
def test_a_planted_bug_is_found(bug, monkeypatch, tmp_path):
    kind, words = FINDERS[bug]
    SOURCE_BUGS[bug](monkeypatch.setattr)
    assert words in found_in([kind], tmp_path)


def test_positions_move_sums_and_votes_beyond_what_is_charged(monkeypatch, tmp_path):
    """The mistake this layer was made for: with the first file gone every later record drew anew."""
    SOURCE_BUGS["positions_as_addresses"](monkeypatch.setattr)
    found = found_in([FOLDERS, NPZ], tmp_path)
    assert "the clipped sum moves by, in clipping norms" in found
    assert "other records whose vote changes" in found


def test_every_bug_has_a_finder():
    assert set(SOURCE_BUGS) == set(FINDERS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_is_found_on_the_road_as_it_is(kind, tmp_path):
    assert found_in([kind], tmp_path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_found_in_twenty_sources(seed, tmp_path):
    assert found_in(KINDS, tmp_path, seed=seed) == ""
