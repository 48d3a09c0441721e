"""How long stages took: told to the owner, kept over resumes, and in no manifest of class dp. Without Ray."""

from __future__ import annotations

import pytest

from rapid_dist import layout
from rapid_dist.errors import InputError, StorageError
from rapid_dist.run import Run
from rapid_dist.specs import parse_spec
from rapid_dist.stages import pipeline
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.stage import StageFolder
from rapid_dist.storage.store import Store
from tests.tiny import TinySources, tiny_settings, write_spec
from tests.wall_times import times_in_files

SOURCES = TinySources(private="private.npz", public="public.npz", test="test.npz")


class Clock:
    """Stands for the time module; time passes when a stage works."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pipeline, "time", clock)
    return clock


@pytest.fixture
def run(tmp_path) -> Run:
    spec = write_spec(tmp_path / "spec.yaml", tiny_settings(SOURCES))
    return Run(parse_spec(spec.read_text()), Store(tmp_path / "out"))


def work(run: Run, clock: Clock, seconds: float, *, name="train", folder=layout.TRAIN, kind="dp", error=None):
    """A stage that takes a while and finishes, or fails; nothing when it is finished already."""
    results = []
    store = run.store(folder)
    with pipeline._told(run, name, store, results):
        begun = StageFolder(store, stage=name, spec={}, inputs={})
        if begun.finished is None:
            clock.now += seconds
            if error is not None:
                raise error
            begun.finish(privacy_class=kind, files=[])
    return results[0]


def test_the_answer_and_the_log_say_how_long_training_took_and_its_manifest_does_not(run, clock):
    result = work(run, clock, 61.25)
    assert (result.seconds, result.skipped) == (61.2, False)
    assert run.owner_log.seconds() == {"train": 61.25}
    assert read_manifest(run.store(layout.TRAIN)).seconds is None
    assert times_in_files(run.store(layout.TRAIN), ["manifest.json"]) == {}


def test_a_finished_stage_that_is_skipped_keeps_its_time(run, clock):
    work(run, clock, 61.25)
    before = run.out.read_bytes(layout.OWNER_LOG)
    for _ in range(2):
        again = work(Run(run.spec, run.out), clock, 5.0)
        assert (again.seconds, again.skipped) == (61.2, True)
    assert run.out.read_bytes(layout.OWNER_LOG) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("no room")])
def test_a_stage_that_is_resumed_took_the_time_of_both_calls(run, clock, error):
    with pytest.raises(type(error)):
        work(run, clock, 10.0, error=error)
    assert work(Run(run.spec, run.out), clock, 2.5).seconds == 12.5
    assert work(Run(run.spec, run.out), clock, 2.5).seconds == 12.5


def test_a_stage_that_refused_to_begin_is_not_in_the_log(run, clock):
    with pytest.raises(InputError), pipeline._told(run, "train", run.store(layout.TRAIN), []):
        raise InputError("there is nothing to train from")
    assert run.out.list_files() == []


def test_a_store_that_failed_is_not_asked_to_keep_a_time(run, clock):
    with pytest.raises(StorageError):
        work(run, clock, 10.0, error=StorageError("down"))
    assert run.owner_log.seconds() == {}


def test_the_report_gets_its_times_from_the_log_and_from_data_sets_ingested_elsewhere(run, clock):
    for name, folder, kind in (("ingest public", layout.PUBLIC_IMAGES, "public"), ("train", layout.TRAIN, "dp")):
        work(run, clock, 3.0, name=name, folder=folder, kind=kind)
    elsewhere = StageFolder(run.private, stage="ingest", spec={}, inputs={})
    elsewhere._started -= 7.0
    elsewhere.finish(privacy_class="private", files=[])
    seconds = pipeline._stage_seconds(run)
    assert list(seconds) == ["ingest public", "ingest private", "train"]
    assert (seconds["ingest public"], seconds["train"]) == (3.0, 3.0)
    assert seconds["ingest private"] == pytest.approx(7.0, abs=0.5)


def test_a_report_leaves_out_the_training_of_a_winner_that_a_study_trained(run, clock):
    StageFolder(run.store(layout.TRAIN), stage="train", spec={}, inputs={}).finish(privacy_class="dp", files=[])
    assert work(run, clock, 9.0).seconds is None
    assert pipeline._stage_seconds(run) == {}


def test_the_evaluations_own_time_is_added_when_the_report_is_told(run, clock):
    begun = StageFolder(run.store(layout.EVALUATION), stage="evaluate", spec={}, inputs={})
    begun.finish(privacy_class="private", files=[], facts={"report": {"stage_seconds": {"train": 3.0}}})
    run.owner_log.add("evaluate", 8.04)
    assert run.report()["stage_seconds"] == {"train": 3.0, "evaluate": 8.0}
