"""The meter of a loop: public steps at once, private ones in blocks and whole seconds."""

import pytest

from rapid_dist.errors import StorageError
from rapid_dist.metrics import catalog, steps
from rapid_dist.metrics.steps import (
    PRIVATE_BLOCK_STEPS,
    PrivateStepMeter,
    StepMeter,
    TimedCollective,
    group_started,
    silent_meter,
)
from tests.metrics.recorded import kept_recorder


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(steps, "time", clock)
    return clock


def take_steps(meter, clock, first, count, seconds):
    for step in range(first, first + count):
        with meter.phase("gradient"):
            clock.now += seconds
        meter.step_done(step + 1)


def test_a_public_loop_is_shown_step_by_step(clock):
    recorder, kept = kept_recorder()
    meter = StepMeter(recorder, loop="denoiser", planned_steps=10, expected_batch_size=32)
    meter.begin(4)
    take_steps(meter, clock, 4, 2, 0.25)
    meter.close()
    assert kept.of(catalog.PLANNED_STEPS, "denoiser") == [10]
    assert kept.of(catalog.STEP, "denoiser") == [4, 5, 6, 6]
    assert sum(kept.of(catalog.STEPS, "denoiser")) == 2
    assert sum(kept.of(catalog.EXPECTED_EXAMPLES, "denoiser")) == 64
    assert kept.of(catalog.PUBLIC_PHASE_SECONDS, "denoiser", "gradient") == [0.25, 0.25]
    assert kept.flushes >= 2


def private_loop(clock, num_steps, seconds):
    recorder, kept = kept_recorder()
    meter = PrivateStepMeter(recorder, planned_steps=100, expected_batch_size=37.5)
    meter.begin(0)
    take_steps(meter, clock, 0, num_steps, seconds)
    return meter, kept


def test_a_private_loop_shows_nothing_of_less_than_a_block(clock):
    _, kept = private_loop(clock, PRIVATE_BLOCK_STEPS - 1, 3.0)
    assert kept.of(catalog.STEP, "private") == [0]
    assert kept.of(catalog.PRIVATE_PHASE_SECONDS, "gradient") == []


def test_a_private_block_shows_whole_seconds_and_carries_the_rest(clock):
    _, kept = private_loop(clock, 2 * PRIVATE_BLOCK_STEPS, 0.53)
    assert kept.of(catalog.PRIVATE_PHASE_SECONDS, "gradient") == [10, 11]
    assert kept.of(catalog.STEP, "private") == [0, PRIVATE_BLOCK_STEPS, 2 * PRIVATE_BLOCK_STEPS]


def test_the_last_unfinished_block_shows_its_steps_and_no_time(clock):
    meter, kept = private_loop(clock, PRIVATE_BLOCK_STEPS + 3, 1.0)
    meter.close()
    assert kept.of(catalog.STEP, "private")[-1] == PRIVATE_BLOCK_STEPS + 3
    assert sum(kept.of(catalog.STEPS, "private")) == PRIVATE_BLOCK_STEPS + 3
    assert kept.of(catalog.PRIVATE_PHASE_SECONDS, "gradient") == [PRIVATE_BLOCK_STEPS]


def test_examples_are_the_public_constant_times_steps_whatever_was_drawn(clock):
    _, kept = private_loop(clock, PRIVATE_BLOCK_STEPS, 1.0)
    assert sum(kept.of(catalog.EXPECTED_EXAMPLES, "private")) == 37.5 * PRIVATE_BLOCK_STEPS


def test_a_ledger_that_cannot_be_written_is_counted_and_still_raised(clock):
    recorder, kept = kept_recorder()
    meter = PrivateStepMeter(recorder, planned_steps=1, expected_batch_size=1)
    with pytest.raises(StorageError), meter.ledger_write():
        raise StorageError("s3 is gone")
    assert kept.of(catalog.LEDGER_FAILURES, "write") == [1]
    with meter.ledger_write():
        pass
    assert kept.of(catalog.LEDGER_FAILURES, "write") == [1]


def test_time_inside_an_inner_phase_is_not_counted_twice(clock):
    recorder, kept = kept_recorder()
    meter = StepMeter(recorder, loop="denoiser", planned_steps=1, expected_batch_size=1)
    group = TimedCollective(SlowGroup(clock), meter)
    with meter.phase("noise"):
        clock.now += 1
        assert (group.sum(5), group.rank) == (10, 3)
        clock.now += 2
        group.sum(1)
    meter.step_done(1)
    assert kept.of(catalog.PUBLIC_PHASE_SECONDS, "denoiser", "noise") == [3]
    assert kept.of(catalog.PUBLIC_PHASE_SECONDS, "denoiser", "all_reduce") == [8]


class SlowGroup:
    rank = 3

    def __init__(self, clock):
        self._clock = clock

    def sum(self, value):
        self._clock.now += 4
        return 2 * value


def test_a_silent_meter_takes_the_same_calls(clock):
    meter = silent_meter()
    meter.begin(0)
    take_steps(meter, clock, 0, 2, 1.0)
    meter.close()


def test_a_start_of_a_group_is_sent_at_once():
    recorder, kept = kept_recorder()
    group_started(recorder, "pretrain")
    assert kept.of(catalog.WORKER_GROUP_STARTS, "pretrain") == [1]
    assert kept.flushes == 1
