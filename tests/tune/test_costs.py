"""What trials cost: always inside the study's budget, in every mode, whatever is proposed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import BestRunCharge, Charge, SubsetCharge, epsilon_of_best_run
from rapid_dist.tune.costs import (
    ACCURACY,
    TrialPlan,
    exceeds_plan,
    expected_cost,
    final_spec,
    plan_trial,
    study_budget,
    study_charge,
)

from .studies import make_study

CHEAP = ("privacy.target_epsilon=0.6", "privacy.sample_rate=1", "training.steps=4", "training.checkpoint_every=2")
ACCURATE = "tune.accuracy_noise_multiplier=60"
SUBSAMPLED = ("privacy.target_epsilon=0.4", "privacy.sample_rate=0.2", "training.steps=30")


def planned_in_turn(study, proposals) -> list[TrialPlan]:
    """The trials of a study one after the other, each calibrated to what those before it have left."""
    plans, already = [], ()
    for index, proposal in enumerate(proposals):
        plan = plan_trial(study, proposal, already=already, trials_left=len(proposals) - index)
        already += plan.charges
        plans.append(plan)
    return plans


def assert_target_is_what_it_may_charge(plan: TrialPlan) -> None:
    privacy = plan.spec.privacy
    cost = epsilon_pld(plan.charges, privacy.target_delta)
    assert cost <= privacy.target_epsilon <= cost + 1e-6
    assert plan.plan.noise_multiplier == privacy.noise_multiplier


proposals_ = st.lists(
    st.fixed_dictionaries(
        {
            "training.steps": st.integers(1, 12),
            "privacy.max_grad_norm": st.floats(0.1, 10),
            "privacy.votes_noise_multiplier": st.sampled_from([None, 40.0, 90.0]),
            "schedule.split_step": st.integers(1, 98),
        }
    ),
    min_size=1,
    max_size=2,
)


@settings(max_examples=4, deadline=None)
@given(proposals=proposals_, mode=st.sampled_from(["compose", "subset"]), num_rungs=st.integers(1, 3))
def test_all_trials_together_fit_the_target_whatever_is_proposed(proposals, mode, num_rungs):
    study = make_study(*CHEAP, f"tune.mode={mode}", f"tune.num_rungs={num_rungs}", ACCURATE)
    plans, budget = planned_in_turn(study, proposals), study_budget(study)
    together = [charge for plan in plans for charge in plan.charges]
    assert epsilon_pld(together, budget.delta) <= budget.epsilon
    for plan, proposal in zip(plans, proposals, strict=True):
        assert_target_is_what_it_may_charge(plan)
        assert plan.spec.training.steps == proposal["training.steps"]
        assert plan.spec.privacy.max_grad_norm == proposal["privacy.max_grad_norm"]


def test_subsampled_trials_together_use_the_target_up():
    study = make_study(*SUBSAMPLED, "tune.mode=compose", "tune.objective=public_fid")
    plans = planned_in_turn(study, [{}, {"privacy.sample_rate": 0.1}])
    cost = epsilon_pld([c for plan in plans for c in plan.charges], 1e-4)
    assert cost <= 0.4
    assert cost == pytest.approx(0.4, rel=5e-3)


def test_a_trial_may_charge_its_votes_its_scores_and_its_spare_steps():
    study = make_study(
        *CHEAP, "tune.mode=compose", "privacy.votes_noise_multiplier=50", "tune.num_rungs=2", "tune.scheduler=asha"
    )
    plan = plan_trial(study, {})
    votes, first, second, training = plan.charges
    assert (votes.mechanism, votes.noise_multiplier, votes.num_steps) == ("gaussian", 50, 1)
    assert first == second
    assert (first.mechanism, first.noise_multiplier, first.purpose) == ("gaussian", 20, ACCURACY)
    assert training == plan.plan.training_charge(4 + 2)
    assert plan.plan.votes_charge() == votes


def test_what_ran_before_and_what_is_still_to_run_both_raise_the_noise():
    study = make_study(*CHEAP, "tune.mode=compose")
    alone = plan_trial(study, {})
    before = plan_trial(study, {}, already=alone.charges[:1])
    after = plan_trial(study, {}, trials_left=2)
    noise = [p.spec.privacy.noise_multiplier for p in (alone, before, after)]
    assert noise[0] < noise[1]
    assert noise[2] > 1.3 * noise[0]
    with pytest.raises(SpecError, match="raise the target"):
        plan_trial(study, {}, already=alone.charges)


# public_proxy


def test_a_proxy_trial_has_the_noise_and_the_batch_of_the_private_run():
    study = make_study(*SUBSAMPLED)
    private = plan_trial(make_study(*SUBSAMPLED, "tune.mode=compose", "tune.objective=public_fid"), {})
    plan = plan_trial(study, {}, num_private=400, num_classes=2)
    privacy = plan.spec.privacy
    assert privacy.noise_multiplier == private.spec.privacy.noise_multiplier
    assert privacy.expected_batch_size == pytest.approx(200)
    assert (privacy.sample_rate, privacy.nominal_size, privacy.max_grad_norm) == (0.5, 400, 1.0)
    assert plan.spec.data.num_classes == 2
    assert_target_is_what_it_may_charge(plan)
    assert privacy.target_epsilon > 0.4
    assert study_charge(study) is None
    assert study_budget(study).epsilon is None


def test_a_proxy_trial_never_takes_more_than_all_images():
    plan = plan_trial(make_study(*CHEAP), {}, num_private=40, num_classes=2)
    assert plan.spec.privacy.sample_rate == 1.0
    assert_target_is_what_it_may_charge(plan)


def test_more_pretend_private_images_than_one_over_delta_are_no_obstacle():
    study = make_study(*CHEAP)
    plan = plan_trial(study, {}, num_private=50_000, num_classes=2)
    privacy = plan.spec.privacy
    assert privacy.target_delta == pytest.approx(1 / 50_000)
    assert privacy.expected_batch_size == pytest.approx(1000)
    assert (
        privacy.noise_multiplier == plan_trial(study, {}, num_private=40, num_classes=2).spec.privacy.noise_multiplier
    )
    assert_target_is_what_it_may_charge(plan)


def test_settings_that_speak_of_private_classes_give_way():
    study = make_study(
        *CHEAP,
        "knowledge_base.label_map={9: 3}",
        "data.class_names=[a, b, c, d]",
        "sampling.class_proportions=[1,0,0,0]",
    )
    spec = plan_trial(study, {}, num_private=40, num_classes=2).spec
    assert (spec.knowledge_base.label_map, spec.data.class_names, spec.sampling.class_proportions) == ({}, None, None)


@pytest.mark.parametrize("num_classes", [0, 1])
def test_an_accuracy_of_less_than_two_classes_is_refused(num_classes):
    with pytest.raises(SpecError, match=f"have {num_classes} classes.*public_fid"):
        plan_trial(make_study(*CHEAP), {}, num_private=40, num_classes=num_classes)
    study = make_study(*CHEAP, "tune.objective=public_fid")
    assert plan_trial(study, {}, num_private=40, num_classes=num_classes).spec.data.num_classes == num_classes


def test_a_trial_that_costs_beyond_all_bounds_is_refused_in_words():
    study = make_study("privacy.target_epsilon=50", "privacy.noise_multiplier=0.35", "training.steps=60")
    with pytest.raises(SpecError, match="over 100; use more images in its place, or fewer steps"):
        plan_trial(study, {}, num_private=100, num_classes=2)


# repeat_select


@pytest.mark.parametrize(
    ("law", "rate"),
    [("geometric", 0.1), ("logarithmic", 1), ("poisson", 1)],
)
def test_the_one_charge_of_a_selection_fits_the_target_and_covers_every_candidate(law, rate):
    study = make_study(
        "tune.mode=repeat_select",
        f"privacy.sample_rate={rate}",
        f"tune.selection={{num_runs: {law}, mean_runs: 5}}",
        "tune.space={training.learning_rate: [0.1, 0.2], privacy.max_grad_norm: {log: [0.1, 10]}}",
    )
    charge = study_charge(study)
    assert isinstance(charge, BestRunCharge)
    epsilon, delta = charge.bound
    assert epsilon <= 4
    assert epsilon == pytest.approx(4, rel=5e-3)
    assert (delta, charge.num_runs, charge.mean_runs) == (1e-4, law, 5)
    assert epsilon == epsilon_of_best_run(charge.charges, 1e-4, mean_runs=5, num_runs=law)
    assert epsilon_pld([charge], 1e-4) <= 4
    for proposal in ({"training.learning_rate": 0.2}, {"privacy.max_grad_norm": 0.3}):
        candidate = plan_trial(study, proposal)
        assert candidate.charges == charge.charges
        assert_target_is_what_it_may_charge(candidate)
    assert {c.purpose for c in charge.charges} == {ACCURACY, "training"}


def test_choosing_costs_noise():
    one, best = (plan_trial(make_study(*CHEAP, f"tune.mode={m}", ACCURATE), {}) for m in ("compose", "repeat_select"))
    assert best.spec.privacy.noise_multiplier > 1.2 * one.spec.privacy.noise_multiplier
    assert best.spec.privacy.target_epsilon < 0.8 * one.spec.privacy.target_epsilon


# subset

SUBSET = (*CHEAP, "tune.mode=subset", "tune.subset={sample_rate: 0.25, epsilon: 1, delta_share: 0.2}")


def test_the_budget_on_the_subset_is_seen_from_the_whole_as_the_stated_share():
    study = make_study(*SUBSET)
    charge, budget = study_charge(study), study_budget(study)
    assert isinstance(charge, SubsetCharge)
    assert (charge.epsilon, charge.delta, charge.subset_rate) == (budget.epsilon, budget.delta, 0.25)
    epsilon, delta = charge.bound
    assert epsilon == pytest.approx(math.log(1 + 0.25 * (math.e - 1)))
    assert delta == pytest.approx(0.2 * 1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_trial_on_the_subset_keeps_its_expected_batch_and_the_subsets_delta(rate):
    study = make_study(*SUBSET, f"privacy.sample_rate={rate}", "privacy.target_epsilon=2", "tune.subset.epsilon=0.3")
    plan = plan_trial(study, {})
    privacy = plan.spec.privacy
    assert privacy.nominal_size == 250
    assert privacy.sample_rate == min(1.0, rate / 0.25)
    assert privacy.target_delta == study_budget(study).delta == pytest.approx(0.8e-4)
    assert privacy.expected_batch_size == pytest.approx(min(250, rate * 1000))
    assert epsilon_pld(plan.charges, privacy.target_delta) <= 0.3
    assert_target_is_what_it_may_charge(plan)


@pytest.mark.parametrize("votes", ["null", "30"])
def test_the_final_run_beside_the_subset_fits_the_target_and_uses_it_up(votes):
    study = make_study(*SUBSET, "privacy.target_epsilon=1", f"privacy.votes_noise_multiplier={votes}")
    spec = final_spec(study, {"training.steps": 3})
    plan = plan_of(spec)
    together = epsilon_pld([*plan, study_charge(study)], 1e-4)
    assert together <= 1
    assert together == pytest.approx(1, rel=5e-3)
    alone = epsilon_pld(plan, 1e-4)
    assert alone <= spec.privacy.target_epsilon <= alone + 1e-6
    assert (spec.privacy.target_delta, spec.privacy.nominal_size, spec.privacy.sample_rate) == (1e-4, 1000, 1.0)
    assert spec.training.steps == 3


def plan_of(spec) -> tuple[Charge, ...]:
    """All that a run of this spec may charge, spare steps included."""
    from rapid_dist.training.plan import build_plan

    plan = build_plan(spec)
    votes = plan.votes_charge()
    return (*((votes,) if votes else ()), replace(plan.training_charge(1), num_steps=plan.steps + plan.spare_steps))


def test_a_subset_that_took_everything_leaves_no_final_run():
    study = make_study(*SUBSET, "tune.subset.epsilon=3")
    with pytest.raises(SpecError, match="raise the target or spend less"):
        final_spec(study, {})


def test_after_a_search_on_public_images_the_final_run_has_the_whole_target():
    study = make_study(*CHEAP)
    spec = final_spec(study, {"training.steps": 3})
    assert spec.privacy == study.run.privacy
    assert spec.privacy.noise_multiplier is None


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("null", "no epsilon will be stated"),
        ("public_proxy", "nothing: no private record is read"),
        ("compose", "at most epsilon 0.6 at delta 0.0001, all 3 trials together"),
        ("repeat_select", "for the best of a secret number of trials"),
        ("subset", "the final run may bring it to 0.6 at delta 0.0001"),
    ],
)
def test_the_cost_that_is_said_beforehand_is_the_one_that_is_charged(mode, said):
    study = make_study(*CHEAP, f"tune.mode={mode}", "tune.subset.epsilon=0.5", ACCURATE)
    cost = expected_cost(study)
    assert said in cost["words"]
    charge = study_charge(study)
    if charge is not None:
        assert f"epsilon {charge.bound[0]:.4f} at delta {charge.bound[1]:g}" in cost["words"]
    first = plan_trial(study, {}, num_private=1000, num_classes=2, trials_left=3)
    assert cost["noise_multiplier"] == first.spec.privacy.noise_multiplier


def test_a_trial_exceeds_its_plan_by_any_one_mechanism_whatever_the_rest():
    def charge(sigma, steps):
        return Charge(mechanism="gaussian", noise_multiplier=sigma, num_steps=steps, purpose="x")

    planned = [charge(5.0, 10), charge(20.0, 1)]
    assert not exceeds_plan(planned, planned)
    assert not exceeds_plan([charge(5.0, 4), charge(5.0, 6)], planned)
    assert exceeds_plan([charge(5.0, 2), charge(20.0, 2)], planned)
    assert exceeds_plan([charge(21.0, 1)], planned)
