"""What operators see of a study's trials."""

from __future__ import annotations

from rapid_dist.metrics import catalog
from rapid_dist.tune.trials import TrialGauges
from tests.metrics.recorded import kept_recorder
from tests.tune.example_rows import make_row


def latest(sink, status):
    return sink.of(catalog.TRIALS, status)[-1]


def test_trials_are_counted_by_how_they_are_now():
    recorder, sink = kept_recorder()
    gauges = TrialGauges(recorder, num_trials=5)
    gauges.show([make_row(0, status="running", score=None), make_row(1, score=0.25)])
    assert (latest(sink, "running"), latest(sink, "finished"), latest(sink, "failed")) == (1, 1, 0)
    gauges.show([make_row(0, score=0.75)])
    gauges.show([make_row(2, status="stopped", score=0.9)])
    assert (latest(sink, "running"), latest(sink, "finished"), latest(sink, "stopped")) == (0, 2, 1)
    assert sink.of(catalog.PLANNED_TRIALS) == [5]


def test_the_best_score_is_that_of_a_finished_trial():
    recorder, sink = kept_recorder()
    gauges = TrialGauges(recorder, num_trials=3)
    gauges.show([make_row(0, status="stopped", score=0.9)])
    assert sink.of(catalog.BEST_SCORE) == []
    gauges.show([make_row(1, score=0.25), make_row(2, score=0.5)])
    assert sink.of(catalog.BEST_SCORE) == [0.5]
