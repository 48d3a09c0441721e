"""Private training and its ledger: always ahead of the noise, never over the target, over any restart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_dist.errors import BudgetExceededError, PrivacyError, StorageError
from rapid_dist.privacy import plan as private_step
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.storage.store import Store
from rapid_dist.training.state import CheckpointFolder
from tests.training.helpers import (
    Place,
    begin_attempt,
    flat_weights,
    make_plan,
    make_records,
    make_state,
    make_training,
    open_tiny_ledger,
    returned,
    run_group,
    run_workers,
    take,
    train,
)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def test_a_step_is_in_the_ledger_before_records_are_chosen_and_before_noise_is_drawn(place, monkeypatch):
    paid = []

    def watch(name):
        original = getattr(private_step, name)

        def spy(*args, step, **kwargs):
            ledger = read_ledger(place.ledger)
            paid.append((name, step, ledger.spent_steps))
            return original(*args, step=step, **kwargs)

        monkeypatch.setattr(private_step, name, spy)

    for name in ("draw_inclusion", "draw_gaussian"):
        watch(name)
    run_group(place, [make_records(12)], training=make_training(steps=5, checkpoint_every=2))
    assert [(name, step) for name, step, _ in paid] == [
        (name, step) for step in range(5) for name in ("draw_inclusion", "draw_gaussian")
    ]
    assert all(spent > step for _, step, spent in paid)


def test_the_charges_are_those_of_the_plan_in_blocks(place):
    plan = make_plan()
    run_group(place, [make_records(12)], training=make_training(steps=5, checkpoint_every=2))
    assert place.charges == tuple(plan.training_charge(n) for n in (2, 2, 1))
    assert epsilon_pld(place.charges, plan.target_delta) == epsilon_pld([plan.training_charge(5)], plan.target_delta)


@pytest.mark.parametrize("world_size", [1, 2])
def test_without_budget_training_stops_with_what_it_has_and_never_overspends(place, world_size):
    """A budget for 3 of 6 steps: a whole block, half a block, and no more."""
    plan = make_plan(target_epsilon=epsilon_pld([make_plan().training_charge(3)], 1e-3) + 1e-6)
    attempt = begin_attempt(place.ledger, plan)
    training = make_training(steps=6, checkpoint_every=2)

    def work(collective):
        state = make_state()
        mine = attempt if collective.rank == 0 else replace(attempt, ledger=None)
        part = take(make_records(12), range(collective.rank, 12, world_size))
        finished = train(state, part, mine, place.checkpoints, collective=collective, plan=plan, training=training)
        return finished, state

    answers = returned(run_workers(world_size, work))
    assert [finished for finished, _ in answers] == [False] * world_size
    assert {state.step for _, state in answers} == {3}
    assert read_ledger(place.ledger).spent_epsilon() <= plan.target_epsilon
    assert [c.num_steps for c in place.charges] == [2, 1]
    saved = make_state()
    saved.load_bytes(place.checkpoints.latest())
    assert saved.step == 3
    assert torch.equal(flat_weights(saved), flat_weights(answers[0][1]))


def test_without_any_budget_no_step_is_taken(place):
    plan = make_plan(target_epsilon=1e-3)
    state = make_state()
    before = flat_weights(state)
    assert not train(state, make_records(12), begin_attempt(place.ledger, plan), place.checkpoints, plan=plan)
    assert torch.equal(flat_weights(state), before)
    assert place.charges == ()
    assert place.checkpoints.latest() is None


def test_a_charge_that_cannot_be_written_stops_every_worker_before_any_noise(place, monkeypatch):
    attempt = begin_attempt(place.ledger, make_plan())

    def refuse(*args, **kwargs):
        raise StorageError("no space left")

    drawn = []
    monkeypatch.setattr(attempt.ledger, "charge_up_to", refuse)
    monkeypatch.setattr(private_step, "draw_gaussian", lambda *a, **k: drawn.append(1))

    def work(collective):
        mine = attempt if collective.rank == 0 else replace(attempt, ledger=None)
        return train(make_state(), make_records(12), mine, place.checkpoints, collective=collective)

    answers = run_workers(2, work)
    assert [type(a) for a in answers] == [StorageError, StorageError]
    assert drawn == []


class Crash(Exception):
    pass


def crash_at(step: int):
    def on_step(done: int) -> None:
        if done == step:
            raise Crash

    return on_step


def test_a_restart_is_a_new_attempt_that_never_gives_back_what_was_spent(place):
    plan, training, records = make_plan(), make_training(steps=6, checkpoint_every=2), make_records(12)
    spent, attempts = [], []
    for crash in (3, 5, None):
        state = make_state()
        saved = place.checkpoints.latest()
        if saved is not None:
            state.load_bytes(saved)
        attempt = begin_attempt(place.ledger, plan, key=RunKey.fixed_for_debugging(crash or 99))
        attempts.append((attempt.number, state.step))
        on_step = crash_at(crash) if crash else lambda step: None
        if crash:
            with pytest.raises(Crash):
                train(state, records, attempt, place.checkpoints, plan=plan, training=training, on_step=on_step)
        else:
            assert train(state, records, attempt, place.checkpoints, plan=plan, training=training, on_step=on_step)
        spent.append(read_ledger(place.ledger).spent_epsilon())
    assert attempts == [(1, 0), (2, 2), (3, 4)]
    assert spent == sorted(spent)
    assert spent[0] < spent[1] < spent[2]
    # Blocks 0-1, 2-3 (lost), again 2-3, 4-5 (lost), again 4-5: ten steps are paid for six.
    assert [c.num_steps for c in place.charges] == [2] * 5
    assert spent[-1] == epsilon_pld([plan.training_charge(10)], plan.target_delta)
    assert state.step == 6


def test_steps_lost_to_restarts_end_training_early_rather_than_over_budget(place):
    plan = make_plan(target_epsilon=epsilon_pld([make_plan().training_charge(5)], 1e-3) + 1e-6)
    training, records = make_training(steps=4, checkpoint_every=2), make_records(12)
    with pytest.raises(Crash):
        train(
            make_state(),
            records,
            begin_attempt(place.ledger, plan),
            place.checkpoints,
            plan=plan,
            training=training,
            on_step=crash_at(1),
        )
    state = make_state()
    assert not train(state, records, begin_attempt(place.ledger, plan), place.checkpoints, plan=plan, training=training)
    assert state.step == 3
    assert read_ledger(place.ledger).spent_steps == 5
    assert read_ledger(place.ledger).spent_epsilon() <= plan.target_epsilon


def test_an_attempt_cannot_take_the_same_step_twice(place):
    attempt = begin_attempt(place.ledger, make_plan())
    with pytest.raises(Crash):
        train(make_state(), make_records(12), attempt, place.checkpoints, on_step=crash_at(1))
    with pytest.raises(PrivacyError, match="already charged"):
        train(make_state(), make_records(12), attempt, place.checkpoints)


def test_a_new_attempt_chooses_other_records_and_other_noise(place, monkeypatch):
    """Even with the same debugging key: the attempt's number is part of every address."""
    runs = []
    for _ in range(2):
        chosen = []
        original = private_step.draw_inclusion
        with monkeypatch.context() as patch:
            patch.setattr(
                private_step,
                "draw_inclusion",
                lambda *a, **k: chosen.append(original(*a, **k).tolist()) or np.array(chosen[-1]),  # noqa: B023
            )
            (state,) = run_group(place, [make_records(12)])
        runs.append((chosen, flat_weights(state)))
    assert runs[0][0] != runs[1][0]
    assert not torch.allclose(runs[0][1], runs[1][1], atol=1e-4)


def test_a_fresh_key_makes_a_run_that_nobody_can_repeat(tmp_path):
    weights = [
        flat_weights(run_group(Place(tmp_path / str(i)), [make_records(12)], plan=make_plan(is_private=True))[0])
        for i in range(2)
    ]
    assert not torch.allclose(weights[0], weights[1], atol=1e-4)


def test_a_debugging_key_under_a_private_plan_is_refused_before_any_charge(place):
    attempt = begin_attempt(place.ledger, make_plan(), key=RunKey.fixed_for_debugging(1))
    with pytest.raises(PrivacyError, match="debugging"):
        train(make_state(), make_records(12), attempt, place.checkpoints, plan=make_plan(is_private=True))
    assert attempt.ledger.charges == ()


def test_only_rank_zero_writes_checkpoints(tmp_path):
    records = make_records(12)
    place = Place(tmp_path / "zero")
    other = CheckpointFolder(Store(tmp_path / "one"))
    first = begin_attempt(place.ledger, make_plan())

    def work(collective):
        mine = first if collective.rank == 0 else replace(first, ledger=None)
        folder = place.checkpoints if collective.rank == 0 else other
        return train(make_state(), take(records, range(collective.rank, 12, 2)), mine, folder, collective=collective)

    assert returned(run_workers(2, work)) == [True, True]
    assert other.latest() is None
    assert place.checkpoints.store.list_files() == [
        f"step-0000000{n}.{ext}" for n in (2, 4) for ext in ("json", "safetensors")
    ]


def test_a_finished_run_charges_nothing_more(place):
    attempt = begin_attempt(place.ledger, make_plan())
    state = make_state()
    state.step = 4
    assert train(state, make_records(12), attempt, place.checkpoints)
    assert place.charges == ()


def test_the_ledger_refuses_a_charge_over_the_target_even_if_asked_directly(place):
    plan = make_plan(target_epsilon=0.5)
    ledger = open_tiny_ledger(place.ledger, plan)
    number = ledger.begin_attempt({})
    with pytest.raises(BudgetExceededError):
        ledger.charge(plan.training_charge(500), attempt=number, first_step=0)
