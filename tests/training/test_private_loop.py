"""Private training: the number of workers changes nothing, the noise is right, one record moves little."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rapid_dist.privacy.keyed import RunKey
from rapid_dist.training import private_loop
from rapid_dist.training.collective import SingleProcess
from rapid_dist.training.private_loop import PrivateAttempt, learning_rate_factor, noised_mean_gradient
from tests.training.helpers import (
    Place,
    flat_weights,
    make_plan,
    make_records,
    make_state,
    make_training,
    returned,
    run_group,
    run_workers,
    take,
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


def test_the_order_of_records_does_not_change_the_weights(place, on_one_worker):
    shuffled = take(make_records(12), np.random.default_rng(0).permutation(12))
    (state,) = run_group(place, [shuffled])
    torch.testing.assert_close(flat_weights(state), on_one_worker[0], rtol=1e-5, atol=1e-6)


def test_a_partition_without_any_record_still_trains_on_noise(place):
    (state,) = run_group(place, [take(make_records(1), [])])
    assert (flat_weights(state) - flat_weights(make_state())).norm() > 0.01
    assert sum(c.num_steps for c in place.charges) == 4


def noise_only(world_size: int, *, plan, size: int = 3000, num_steps: int = 20) -> np.ndarray:
    """Returned gradients (num_steps, size) when every clipped sum is zero, in units of the noise asked for."""
    key = RunKey.fixed_for_debugging(9)

    def work(collective):
        attempt = PrivateAttempt(number=1, key=key, ledger=None)
        steps = [
            noised_mean_gradient(
                torch.zeros(size, dtype=torch.float64), plan=plan, attempt=attempt, step=step, collective=collective
            )
            for step in range(num_steps)
        ]
        return torch.stack(steps)

    answers = returned(run_workers(world_size, work))
    assert all(torch.equal(a, answers[0]) for a in answers)
    return answers[0].numpy()


def has_scale(values: np.ndarray, expected: float) -> bool:
    """Whether the pooled standard deviation is within 4 standard errors of the expected one."""
    return abs(values.std() / expected - 1) < 4 / math.sqrt(2 * values.size)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_noise_on_zero_data_has_the_planned_scale_and_no_other(world_size):
    plan = make_plan()
    values = noise_only(world_size, plan=plan)
    # Gradients are returned in units of max_grad_norm over the public normaliser.
    expected = plan.noise_multiplier / plan.expected_batch_size
    assert has_scale(values, expected)
    assert abs(values.mean()) < 4 * expected / math.sqrt(values.size)
    for wrong in (0.97, 1.03, math.sqrt(2), math.sqrt(world_size + 1), 1 / (world_size + 1)):
        assert not has_scale(wrong * values, expected)


@pytest.mark.parametrize("world_size", [2, 3])
def test_noise_is_the_same_whatever_the_number_of_workers(world_size):
    assert np.array_equal(noise_only(world_size, plan=make_plan()), noise_only(1, plan=make_plan()))


def test_noise_does_not_repeat_over_coordinates_steps_attempts_or_keys():
    plan, zeros = make_plan(), torch.zeros(500, dtype=torch.float64)

    def gradient(key, attempt, step):
        return noised_mean_gradient(
            zeros.clone(),
            plan=plan,
            attempt=PrivateAttempt(number=attempt, key=RunKey.fixed_for_debugging(key), ledger=None),
            step=step,
            collective=SingleProcess(),
        )

    rows = torch.stack([gradient(k, a, s) for k in (0, 1) for a in (1, 2) for s in (0, 1)]).numpy()
    correlation = np.corrcoef(rows)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / math.sqrt(500)


def test_the_clipped_sum_is_divided_by_the_public_normaliser_and_clip():
    plan = make_plan(noise_multiplier=1e-6)
    total = torch.arange(4, dtype=torch.float64)
    attempt = PrivateAttempt(number=1, key=RunKey.fixed_for_debugging(0), ledger=None)
    gradient = noised_mean_gradient(
        total.clone(), plan=plan, attempt=attempt, step=0, collective=SingleProcess()
    )
    torch.testing.assert_close(gradient, total / (6.0 * 0.5), rtol=0, atol=1e-5)


def test_the_released_sum_lies_on_the_public_grid():
    plan = make_plan()
    values = noise_only(2, plan=plan) * plan.expected_batch_size * plan.max_grad_norm / plan.grid
    assert np.allclose(values, np.round(values), atol=1e-6, rtol=0)


def released_gradients(monkeypatch, place, records, **settings) -> list[torch.Tensor]:
    """The gradients that leave the mechanism in a run, and the clipped sums behind them, in turn."""
    seen = []
    original = private_loop.noised_mean_gradient

    def spy(local_sum, **kwargs):
        before = local_sum.clone()
        after = original(local_sum, **kwargs)
        seen.append((before, after))
        return after

    monkeypatch.setattr(private_loop, "noised_mean_gradient", spy)
    run_group(place, [records], **settings)
    monkeypatch.setattr(private_loop, "noised_mean_gradient", original)
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
