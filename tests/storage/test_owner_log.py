import json

import pytest

from rapid_dist import layout
from rapid_dist.errors import ArtifactError
from rapid_dist.storage.manifest import Manifest
from rapid_dist.storage.stage import OwnerLog
from rapid_dist.storage.store import Store


@pytest.fixture
def run(tmp_path) -> Store:
    return Store(tmp_path / "run")


def manifest(privacy_class: str, seconds: float | None) -> Manifest:
    return Manifest(stage="any", privacy_class=privacy_class, spec={}, inputs={}, files=[], seconds=seconds)


def test_a_run_without_a_log_knows_no_times_and_asking_writes_nothing(run):
    assert OwnerLog(run).seconds() == {}
    assert run.list_files() == []


def test_the_log_is_of_class_private_and_lies_in_no_stage(run):
    OwnerLog(run).add("train", 12.3456)
    plain = json.loads(run.read_bytes(layout.OWNER_LOG))
    assert plain == {"privacy_class": "private", "seconds": {"train": 12.346}}
    assert not any(layout.OWNER_LOG.startswith(folder) for folder in layout.FOLDERS)


def test_a_stage_that_was_cut_off_and_resumed_took_both_times(run):
    OwnerLog(run).add("train", 10.0)
    OwnerLog(run).add("sample", 1.0)
    OwnerLog(run).add("train", 2.5)
    assert OwnerLog(run).seconds() == {"train": 12.5, "sample": 1.0}


def test_a_time_is_that_of_the_log_else_of_the_manifest_else_unknown(run):
    log = OwnerLog(run)
    log.add("train", 12.34)
    assert log.of("train", manifest("dp", 99.0)) == 12.3
    assert log.of("train", None) == 12.3
    assert log.of("ingest private", manifest("private", 4.26)) == 4.3  # ingested elsewhere
    assert log.of("sample", manifest("dp", 99.0)) is None  # a winner that a study trained
    assert log.of("sample", None) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"seconds": 3}', b'{"seconds": {"train": "long"}}', b"\xff"])
def test_what_is_no_log_is_refused_and_says_that_it_may_be_removed(run, data):
    run.write_bytes(layout.OWNER_LOG, data)
    with pytest.raises(ArtifactError, match=r"private/seconds\.json is not a log of this program; remove it"):
        OwnerLog(run).seconds()
