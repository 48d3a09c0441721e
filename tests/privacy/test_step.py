"""The private step as a mechanism: noise of the planned scale once on the global sum, and only when paid for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import PaidSteps
from rapid_dist.privacy.plan import OneWorker, PrivacyPlan, PrivateStep
from tests.training.helpers import make_plan, returned, run_workers


def receipt(plan: PrivacyPlan, num_steps: int = 1, *, attempt: int = 1, first_step: int = 0) -> PaidSteps:
    charge = plan.training_charge(num_steps)
    return PaidSteps(attempt=attempt, first_step=first_step, charge=charge, entry="0" * 64)


def one_step(plan: PrivacyPlan, *, key: int = 0, attempt: int = 1, step: int = 0) -> PrivateStep:
    paid = receipt(plan, attempt=attempt, first_step=step)
    return next(plan.private_steps(RunKey.fixed_for_debugging(key), paid))


def noise_only(world_size: int, *, plan, size: int = 3000, num_steps: int = 20) -> np.ndarray:
    """Returned gradients (num_steps, size) when every clipped sum is zero, in units of the noise asked for."""

    def work(collective):
        steps = plan.private_steps(RunKey.fixed_for_debugging(9), receipt(plan, num_steps))
        return torch.stack([step.release(torch.zeros(size, dtype=torch.float64), collective) for step in steps])

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
    rows = [
        one_step(plan, key=k, attempt=a, step=s).release(zeros.clone(), OneWorker())
        for k in (0, 1)
        for a in (1, 2)
        for s in (0, 1)
    ]
    correlation = np.corrcoef(torch.stack(rows).numpy())
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / math.sqrt(500)


def test_the_clipped_sum_is_divided_by_the_public_normaliser_and_clip():
    plan = make_plan(noise_multiplier=1e-6)
    total = torch.arange(4, dtype=torch.float64)
    gradient = one_step(plan).release(total.clone(), OneWorker())
    torch.testing.assert_close(gradient, total / (6.0 * 0.5), rtol=0, atol=1e-5)


def test_the_released_sum_lies_on_the_public_grid():
    plan = make_plan()
    values = noise_only(2, plan=plan) * plan.expected_batch_size * plan.max_grad_norm / plan.grid
    assert np.allclose(values, np.round(values), atol=1e-6, rtol=0)


def test_the_release_is_float64_and_the_same_whatever_precision_is_asked_for():
    plan, total = make_plan(), torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    expected = one_step(plan).release(total.clone(), OneWorker())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            released = one_step(plan).release(total.clone(), OneWorker())
    finally:
        torch.set_float32_matmul_precision(before)
    assert released.dtype == torch.float64
    assert torch.equal(released, expected)


def test_a_step_is_released_once():
    step, zeros = one_step(make_plan()), torch.zeros(5, dtype=torch.float64)
    step.release(zeros.clone(), OneWorker())
    with pytest.raises(PrivacyError, match="used up"):
        step.release(zeros.clone(), OneWorker())


def test_a_receipt_gives_just_the_steps_it_paid_for():
    plan = make_plan()
    steps = plan.private_steps(RunKey.fixed_for_debugging(0), receipt(plan, 3, first_step=5))
    assert [step.number for step in steps] == [5, 6, 7]
    assert list(steps) == []


@pytest.mark.parametrize(
    "change", [{"noise_multiplier": 2.5}, {"sample_rate": 0.25}, {"purpose": "votes"}, {"num_steps": 1}]
)
def test_a_receipt_for_another_mechanism_gives_no_step(change):
    plan = make_plan()
    paid = receipt(plan, 2)
    other = replace(paid, charge=replace(paid.charge, **change))
    if change == {"num_steps": 1}:
        assert [s.number for s in plan.private_steps(RunKey.fixed_for_debugging(0), other)] == [0]
        return
    with pytest.raises(PrivacyError, match="the plan's step is"):
        plan.private_steps(RunKey.fixed_for_debugging(0), other)


def test_a_debugging_key_gives_no_step_of_a_private_plan():
    plan = make_plan(is_private=True)
    with pytest.raises(PrivacyError, match="debugging"):
        plan.private_steps(RunKey.fixed_for_debugging(0), receipt(plan))


def test_a_receipt_crosses_workers_as_plain_values():
    paid = receipt(make_plan(), 3, attempt=2, first_step=4)
    assert PaidSteps.from_dict(paid.to_dict()) == paid
