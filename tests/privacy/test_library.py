"""Privacy by hand: the functions with few arguments say what the ones beneath them say."""

from __future__ import annotations

import pytest
import torch

from rapid_dist import privacy
from rapid_dist.errors import BudgetExceededError, PrivacyError, SpecError
from rapid_dist.privacy.accounting import compute_epsilon
from rapid_dist.privacy.charges import training_charge
from rapid_dist.storage.store import Store

MECHANISM = {"sample_rate": 0.1, "steps": 20}
TERMS = {"target_epsilon": 1, "target_delta": 1e-5}
PLAN = {**TERMS, **MECHANISM, "expected_batch_size": 10}


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_calibrated_noise_is_the_least_that_fits(relation):
    settings = {**MECHANISM, "delta": 1e-5, "neighboring_relation": relation}
    noise_multiplier = privacy.calibrate(target_epsilon=1, **settings)
    assert privacy.epsilon(noise_multiplier=noise_multiplier, **settings) <= 1
    assert privacy.epsilon(noise_multiplier=0.99 * noise_multiplier, **settings) > 1


def test_epsilon_is_the_number_to_state_of_the_three():
    charge = training_charge(sample_rate=0.1, noise_multiplier=1.0, num_steps=20)
    result = compute_epsilon((charge,), delta=1e-5)
    assert privacy.epsilon(noise_multiplier=1.0, delta=1e-5, **MECHANISM) == result.pld < result.rdp


@pytest.mark.parametrize(
    "ask",
    [
        lambda: privacy.epsilon(noise_multiplier=0, delta=1e-5, **MECHANISM),
        lambda: privacy.epsilon(noise_multiplier=1, delta=2, **MECHANISM),
        lambda: privacy.calibrate(target_epsilon=-1, delta=1e-5, **MECHANISM),
        lambda: privacy.make_plan(**PLAN, noise_multiplier=0.1),
    ],
)
def test_a_value_out_of_range_is_a_value_error_of_ours(ask):
    with pytest.raises(ValueError, match=r".") as caught:
        ask()
    assert type(caught.value) is SpecError


def test_a_plan_pays_for_its_steps_and_its_spare_ones():
    plan = privacy.make_plan(**PLAN, spare_steps=5)
    without = privacy.make_plan(**PLAN)
    assert plan.planned_epsilon().pld < without.planned_epsilon().pld <= 1
    assert plan.noise_multiplier > without.noise_multiplier
    assert (plan.unit, plan.neighboring_relation, plan.votes_noise_multiplier) == ("example", "add_or_remove_one", None)
    assert privacy.make_plan(**PLAN, noise_multiplier=5.0).noise_multiplier == 5.0


@pytest.mark.parametrize("place", [str, lambda path: path, Store])
def test_a_ledger_is_opened_by_text_path_or_store(tmp_path, place):
    plan = privacy.make_plan(**PLAN)
    ledger = privacy.open_ledger(place(tmp_path), **TERMS)
    attempt = ledger.begin_attempt(plan.to_plain(), planned=plan.planned_charges())
    ledger.charge(plan.training_charge(20), attempt=attempt, first_step=0)
    seen = privacy.read_ledger(place(tmp_path), must_contain=ledger.head)
    assert seen.spent_epsilon() == plan.planned_epsilon().pld
    assert privacy.join_ledger(place(tmp_path), target_epsilon=1, target_delta=1e-6).head == ledger.head
    with pytest.raises(BudgetExceededError):
        ledger.charge(plan.training_charge(20), attempt=attempt, first_step=20)
    with pytest.raises(PrivacyError, match="was opened with"):
        privacy.open_ledger(place(tmp_path), target_epsilon=4, target_delta=1e-5)


def test_one_worker_sums_what_it_has():
    total = torch.arange(3.0)
    assert torch.equal(privacy.OneWorker().sum(total), total)
