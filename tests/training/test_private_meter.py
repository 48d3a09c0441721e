"""What private training shows of itself: public constants and coarse time, and nothing that changes a weight."""

from __future__ import annotations

import pytest
import torch

from rapid_dist.errors import StorageError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.steps import PRIVATE_BLOCK_STEPS, PrivateStepMeter
from tests.metrics.recorded import kept_recorder
from tests.training.helpers import Place, begin_attempt, flat_weights, make_plan, make_records, make_state, train
from tests.training.helpers import make_training as training_of

STEPS = PRIVATE_BLOCK_STEPS + 3
BATCH = make_plan().expected_batch_size


def metered_run(tmp_path, num_records=12, steps=STEPS):
    recorder, kept = kept_recorder()
    meter = PrivateStepMeter(recorder, planned_steps=steps, expected_batch_size=BATCH)
    place, state, plan = Place(tmp_path), make_state(), make_plan(steps=steps, target_epsilon=500.0)
    attempt = begin_attempt(place.ledger, plan)
    train(
        state,
        make_records(num_records),
        attempt,
        place.checkpoints,
        plan=plan,
        training=training_of(steps=steps),
        meter=meter,
    )
    return flat_weights(state), kept


def test_steps_and_examples_are_public_constants_whatever_the_records(tmp_path):
    shown = []
    for num_records in (1, 12):
        _, kept = metered_run(tmp_path / str(num_records), num_records)
        assert sum(kept.of(catalog.STEPS, "private")) == STEPS
        assert kept.of(catalog.STEP, "private") == [0, PRIVATE_BLOCK_STEPS, STEPS]
        assert sum(kept.of(catalog.EXPECTED_EXAMPLES, "private")) == BATCH * STEPS
        shown.append({name: v for name, v in kept.values.items() if catalog.PRIVATE_PHASE_SECONDS.name not in name})
    assert shown[0] == shown[1]


def test_time_is_in_whole_seconds_by_phase(tmp_path):
    _, kept = metered_run(tmp_path)
    phases = {name[1]: v for name, v in kept.values.items() if name[0] == catalog.PRIVATE_PHASE_SECONDS.name}
    assert set(phases) == {"ledger", "data", "gradient", "noise", "all_reduce", "update", "checkpoint"}
    assert all(value == int(value) for values in phases.values() for value in values)


def test_a_meter_changes_no_weight(tmp_path):
    weights, _ = metered_run(tmp_path / "metered")
    place, state, plan = Place(tmp_path / "plain"), make_state(), make_plan(steps=STEPS, target_epsilon=500.0)
    attempt = begin_attempt(place.ledger, plan)
    train(state, make_records(12), attempt, place.checkpoints, plan=plan, training=training_of(steps=STEPS))
    assert torch.equal(weights, flat_weights(state))


def test_a_ledger_that_cannot_be_written_is_counted(tmp_path, monkeypatch):
    recorder, kept = kept_recorder()
    place, plan = Place(tmp_path), make_plan()
    attempt = begin_attempt(place.ledger, plan)

    def gone(*_, **__):
        raise StorageError("the store is gone")

    monkeypatch.setattr(attempt.ledger, "charge_up_to", gone)
    meter = PrivateStepMeter(recorder, planned_steps=4, expected_batch_size=BATCH)
    with pytest.raises(StorageError):
        train(make_state(), make_records(12), attempt, place.checkpoints, plan=plan, meter=meter)
    assert kept.of(catalog.LEDGER_FAILURES, "write") == [1]
