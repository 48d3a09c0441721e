"""Values recorded in other processes reach the driver's sink, whole and only when metrics are on."""

from __future__ import annotations

import pickle

import pytest

from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Recorder, current_recorder, recording
from rapid_dist.runtime import mailbox as relay
from rapid_dist.runtime.mailbox import RaySink, RelaySink, relayed_recorder, run_recorder
from rapid_dist.runtime.parts import map_parts
from rapid_dist.storage.store import Store
from tests.metrics.recorded import Kept, kept_recorder


class Posted:
    """What was posted, as batches, and whether the sender waited."""

    def __init__(self):
        self.batches, self.waits = [], []

    def __call__(self, batch, *, wait):
        self.batches.append(batch)
        self.waits.append(wait)


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(relay, "time", clock)
    return clock


def test_a_worker_sends_one_merged_batch_a_second_and_what_is_left_when_flushed(clock):
    posted = Posted()
    recorder = Recorder(RelaySink(posted))
    for _ in range(5):
        recorder.add(catalog.STEPS, loop="denoiser")
        clock.now += 0.3
    recorder.flush()
    counts = [values for batch in posted.batches for _, _, values in batch]
    assert counts == [[5.0]]
    recorder.add(catalog.STEPS, loop="denoiser")
    assert len(posted.batches) == 1
    recorder.flush()
    assert [sum(values) for batch in posted.batches for _, _, values in batch] == [5.0, 1.0]
    assert posted.waits == [False, True]


def test_a_sink_pickles_without_what_it_holds():
    recorder = Recorder(RelaySink(print), {"run": "tiny"})
    recorder.add(catalog.STEPS, loop="denoiser")
    copy = pickle.loads(pickle.dumps(recorder))
    assert copy.labels == {"run": "tiny"}
    assert copy.sink._buffer.take() == []


def test_without_metrics_workers_get_a_recorder_that_drops_everything_and_ray_is_not_started(monkeypatch):
    monkeypatch.setattr(relay, "start_ray", lambda: pytest.fail("started Ray"))
    with relayed_recorder() as recorder:
        assert not recorder.is_on


def test_off_a_cluster_a_run_without_an_endpoint_records_nothing(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with run_recorder("tiny") as recorder:
        assert not recorder.is_on
        assert recorder.labels == {"run": "tiny"}


def test_on_a_cluster_a_run_records_into_rays_agent_unless_an_endpoint_is_open(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with run_recorder("tiny") as recorder:
        assert isinstance(recorder.sink, RaySink)
    given, kept = kept_recorder()
    with recording(given), run_recorder("other") as recorder:
        assert recorder.sink is kept
        assert recorder.labels == {"run": "other"}


def test_rays_sink_holds_back_until_ray_runs(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    sink = RaySink()
    Recorder(sink).add(catalog.STEPS, 2, loop="denoiser")
    Recorder(sink).add(catalog.STEPS, 3, loop="denoiser")
    kept = sink._agent = Kept()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    sink.flush()
    assert kept.of(catalog.STEPS, "denoiser") == [5.0]


def make_recording_part():
    def part(index):
        current_recorder().add(catalog.SAMPLES, 10 + index, model="private")
        return {"index": index}

    return part


@pytest.mark.parametrize(("work", "is_shown"), [("sample", True), ("ingest", False)])
def test_parts_record_through_the_driver_and_only_public_work_shows_its_queue(ray_cluster, tmp_path, work, is_shown):
    recorder, kept = kept_recorder()
    with recording(recorder):
        map_parts(make_recording_part, (), 3, store=Store(tmp_path), name=work, num_actors=2)
    assert sum(kept.of(catalog.SAMPLES, "private")) == 10 + 11 + 12
    assert kept.of(catalog.QUEUE_DEPTH, work) == ([3, 2, 1, 0] if is_shown else [])
    assert sum(kept.of(catalog.PARTS, work)) == (3 if is_shown else 0)
