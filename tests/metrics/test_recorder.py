"""Recording: the allow-list before the sink, labels, scopes."""

import dataclasses

import pytest

from rapid_dist.errors import PrivacyError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Buffer, Recorder, current_recorder, recording, replay
from tests.metrics.recorded import Kept, kept_recorder


def test_values_reach_the_sink_with_the_labels_of_the_recorder():
    recorder, kept = kept_recorder()
    recorder.add(catalog.STEPS, 3, loop="denoiser")
    recorder.set(catalog.SPENT_EPSILON, 1.5)
    assert kept.values == {("rapid_dist_steps_total", "denoiser"): [3.0], ("rapid_dist_spent_epsilon",): [1.5]}


@pytest.mark.parametrize("sink", [None, Kept()])
def test_a_private_metric_raises_and_never_reaches_a_sink(sink):
    drawn = dataclasses.replace(catalog.STEP, name="rapid_dist_examples_drawn", privacy_class="private")
    with pytest.raises(PrivacyError):
        Recorder(sink).set(drawn, 61, loop="private")
    assert sink is None or sink.values == {}


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.set(catalog.STEPS, 1, loop="denoiser"),
        lambda r: r.add(catalog.STEPS, 1),
        lambda r: r.add(catalog.STEPS, 1, loop="denoiser", example="7"),
        lambda r: r.observe(catalog.SPENT_EPSILON, 1),
    ],
)
def test_a_value_of_another_kind_or_with_other_labels_is_a_bug(call):
    with pytest.raises(ValueError, match="got a"):
        call(Recorder())


def test_without_a_scope_nothing_is_kept_and_scopes_nest():
    assert not current_recorder().is_on
    outer, inner = Recorder(Kept()), Recorder(Kept())
    with recording(outer):
        with recording(inner):
            assert current_recorder() is inner
        assert current_recorder() is outer
    assert not current_recorder().is_on


def test_a_timed_block_that_raises_is_not_observed():
    recorder, kept = kept_recorder()
    with pytest.raises(KeyError), recorder.timed(catalog.QUERY_SECONDS, source="sample"):
        raise KeyError
    assert kept.values == {}
    with recorder.timed(catalog.QUERY_SECONDS, source="sample"):
        pass
    assert len(kept.of(catalog.QUERY_SECONDS, "sample")) == 1


def test_a_buffer_adds_counters_keeps_the_last_level_and_every_observation():
    buffer = Buffer()
    recorder = Recorder(buffer)
    for value in (1, 2, 4):
        recorder.add(catalog.STEPS, value, loop="denoiser")
        recorder.set(catalog.STEP, value, loop="denoiser")
        recorder.observe(catalog.QUERY_SECONDS, value, source="sample")
    kept = Kept()
    replay(buffer.take(), kept)
    assert kept.of(catalog.STEPS, "denoiser") == [7.0]
    assert kept.of(catalog.STEP, "denoiser") == [4.0]
    assert kept.of(catalog.QUERY_SECONDS, "sample") == [1.0, 2.0, 4.0]
    assert buffer.take() == []
