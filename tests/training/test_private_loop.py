"""Private training: the number of workers changes nothing, the noise is right, one record moves little."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.plan import PrivateStep
from rapid_dist.training.private import learning_rate_factor
from tests.training.helpers import (
    Place,
    begin_attempt,
    flat_weights,
    make_plan,
    make_records,
    make_state,
    make_training,
    returned,
    run_group,
    run_workers,
    take,
    train,
)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


PARTITIONS = {
    "halves": [range(6), range(6, 12)],
    "uneven": [[0], list(range(1, 12))],
    "interleaved and turned round": [[11, 9, 7, 5, 3, 1], [0, 2, 4, 6, 8, 10]],
    "one worker has nothing": [range(12), []],
    "three": [[3, 1, 2], [0, 11, 10, 9], [4, 5, 6, 7, 8]],
    "three, one of them empty": [[], range(5), range(5, 12)],
}


@pytest.fixture(scope="module")
def on_one_worker(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("one"))
    (state,) = run_group(place, [make_records(12)])
    return flat_weights(state), place.charges


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("max_physical_batch_size", [1, 5, 1000])
def test_workers_and_memory_limit_change_neither_the_weights_nor_the_charges(
    place, on_one_worker, name, max_physical_batch_size
):
    records = make_records(12)
    parts = [take(records, list(rows)) for rows in PARTITIONS[name]]
    states = run_group(place, parts, max_physical_batch_size=max_physical_batch_size)
    weights, charges = on_one_worker
    assert place.charges == charges
    for state in states:
        assert torch.equal(flat_weights(state), flat_weights(states[0]))
        assert ((flat_weights(state) - weights).norm() / weights.norm()).item() < 1e-5
    assert (weights - flat_weights(make_state())).norm() > 0.01


def test_surrogate_training_does_not_depend_on_the_workers_either(tmp_path):
    records = make_records(12, has_surrogate=True)
    training = make_training(objective="surrogate")
    found = []
    for name, rows in {"one": [range(12)], "two": [range(0, 12, 2), range(1, 12, 2)]}.items():
        parts = [take(records, list(r)) for r in rows]
        found.append(flat_weights(run_group(Place(tmp_path / name), parts, training=training)[0]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["vmap", "linear", "opacus"])
def test_the_clipping_engine_changes_neither_the_weights_nor_the_charges(place, on_one_worker, engine):
    (state,) = run_group(place, [make_records(12)], clipping_engine=engine)
    weights, charges = on_one_worker
    assert place.charges == charges
    assert ((flat_weights(state) - weights).norm() / weights.norm()).item() < 1e-5


def test_the_order_of_records_does_not_change_the_weights(place, on_one_worker):
    shuffled = take(make_records(12), np.random.default_rng(0).permutation(12))
    (state,) = run_group(place, [shuffled])
    torch.testing.assert_close(flat_weights(state), on_one_worker[0], rtol=1e-5, atol=1e-6)


def test_a_partition_without_any_record_still_trains_on_noise(place):
    (state,) = run_group(place, [take(make_records(1), [])])
    assert (flat_weights(state) - flat_weights(make_state())).norm() > 0.01
    assert sum(c.num_steps for c in place.charges) == 4


def released_gradients(monkeypatch, place, records, **settings) -> list[torch.Tensor]:
    """The gradients that leave the mechanism in a run, and the clipped sums behind them, in turn."""
    seen = []
    original = PrivateStep.release

    def spy(step, local_sum, workers):
        before = local_sum.clone()
        after = original(step, local_sum, workers)
        seen.append((before, after))
        return after

    with monkeypatch.context() as patch:
        patch.setattr(PrivateStep, "release", spy)
        run_group(place, [records], **settings)
    return seen


def test_the_normaliser_does_not_depend_on_the_number_of_records(tmp_path, monkeypatch):
    """With frozen noise, a run on 12 records and one on 3 differ by their clipped sums over one constant."""
    plan, training = make_plan(), make_training(steps=1)
    ((many_sum, many),), ((few_sum, few),) = (
        released_gradients(monkeypatch, Place(tmp_path / str(n)), take(make_records(12), range(n)), training=training)
        for n in (12, 3)
    )
    assert (many_sum - few_sum).norm() > 0.1
    expected = (many_sum - few_sum) / (plan.expected_batch_size * plan.max_grad_norm)
    torch.testing.assert_close(many - few, expected, rtol=0, atol=4 * plan.grid)


@pytest.mark.parametrize("harm", ["ordinary", "huge", "infinite", "nan", "zero", "duplicate"])
def test_one_record_moves_each_clipped_sum_by_at_most_the_clip_and_only_when_included(tmp_path, monkeypatch, harm):
    """Grey-box replay: same inclusion, frozen noise, with and without one record, from equal weights."""
    records, plan = make_records(12), make_plan()
    values = {"huge": 1e12, "infinite": math.inf, "nan": math.nan, "zero": 0.0, "duplicate": records.latent[0]}
    if harm in values:
        records.latent[7] = values[harm]
    moved = []
    for seed in range(6):
        sums = []
        for name, rows in {"with": range(12), "without": [i for i in range(12) if i != 7]}.items():
            seen = released_gradients(
                monkeypatch,
                Place(tmp_path / f"{name}{seed}"),
                take(records, list(rows)),
                key=RunKey.fixed_for_debugging(seed),
                training=make_training(steps=1),
            )
            assert len(seen) == 1
            sums.append(seen[0][0])
        moved.append((sums[0] - sums[1]).norm().item())
    assert max(moved) <= plan.max_grad_norm * (1 + 1e-6)
    assert min(moved) < 1e-9
    if harm in ("ordinary", "duplicate"):
        assert max(moved) > 0.1 * plan.max_grad_norm


def test_the_learning_rate_is_constant_and_then_falls_in_a_line_to_zero():
    training = make_training(steps=10, decay_fraction=0.4)
    factors = [learning_rate_factor(step, training) for step in range(11)]
    assert factors == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    never = make_training(steps=10, decay_fraction=0.0)
    assert [learning_rate_factor(step, never) for step in range(10)] == [1.0] * 10


@pytest.mark.parametrize("world_size", [1, 2])
def test_on_block_is_heard_on_every_worker_after_each_paid_block_with_the_state_that_was_saved(place, world_size):
    records, heard = make_records(12), [[] for _ in range(world_size)]
    training, plan = make_training(steps=5, checkpoint_every=2), make_plan()
    first = begin_attempt(place.ledger, plan)

    def work(collective):
        def on_block(state):
            saved = place.checkpoints.latest() if collective.rank == 0 else None
            heard[collective.rank].append((state.step, flat_weights(state), saved, place.charges))

        mine = first if collective.rank == 0 else replace(first, ledger=None)
        part = take(records, range(collective.rank, 12, world_size))
        return train(
            make_state(), part, mine, place.checkpoints, collective=collective, training=training, on_block=on_block
        )

    assert returned(run_workers(world_size, work)) == [True] * world_size
    for blocks in heard:
        assert [step for step, *_ in blocks] == [2, 4, 5]
    for step, weights, saved, charges in heard[0]:
        kept = make_state()
        kept.load_bytes(saved)
        assert kept.step == step
        assert torch.equal(flat_weights(kept), weights)
        assert sum(c.num_steps for c in charges) >= step
    for one, other in zip(heard[0], heard[-1], strict=True):
        assert torch.equal(one[1], other[1])


def test_on_block_hears_of_a_block_that_the_budget_cut_short_and_of_none_that_was_not_paid(place):
    plan = make_plan(target_epsilon=epsilon_pld([make_plan().training_charge(3)], 1e-3) + 1e-6)
    training, steps = make_training(steps=6, checkpoint_every=2), []
    finished = train(
        make_state(),
        make_records(12),
        begin_attempt(place.ledger, plan),
        place.checkpoints,
        plan=plan,
        training=training,
        on_block=lambda state: steps.append(state.step),
    )
    assert not finished
    assert steps == [2, 3]


def test_what_on_block_looks_at_changes_nothing(place, on_one_worker):
    def on_block(state):
        state.averaged_weights()
        torch.randn(100)

    (state,) = run_group(place, [make_records(12)], on_block=on_block)
    assert torch.equal(flat_weights(state), on_one_worker[0])
