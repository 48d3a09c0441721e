from dataclasses import FrozenInstanceError

import pytest

from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.specs import DataSpec, PrivacySpec, RunSpec, TrainingSpec
from rapid_dist.storage.store import Store
from rapid_dist.training.plan import build_plan
from rapid_dist.training.state import CheckpointFolder
from tests.training.helpers import begin_attempt, make_records, make_state, make_training, train


def build(*, steps: int = 12, **privacy) -> PrivacyPlan:
    values = {"target_epsilon": 1.0, "target_delta": 1e-3, "sample_rate": 0.1, "nominal_size": 200}
    return build_plan(
        RunSpec(
            data=DataSpec(private="p", public="q", num_classes=2),
            privacy=PrivacySpec(**{**values, **privacy}),
            training=TrainingSpec(steps=steps),
        )
    )


@pytest.fixture(scope="module")
def plain() -> PrivacyPlan:
    return build()


@pytest.fixture(scope="module")
def with_spare() -> PrivacyPlan:
    return build(steps=12, spare_steps=6)


@pytest.fixture(scope="module")
def with_votes() -> PrivacyPlan:
    return build(votes_noise_multiplier=8.0)


@pytest.mark.parametrize("name", ["plain", "with_votes"])
def test_the_planned_epsilon_is_just_below_the_target(name, request):
    plan = request.getfixturevalue(name)
    result = plan.planned_epsilon()
    assert 0.97 < result.pld <= plan.target_epsilon
    assert result.rdp >= result.pld


def test_every_record_in_every_step_is_planned_without_amplification():
    plan = build(sample_rate=1.0, steps=5)
    assert 0.97 < plan.planned_epsilon().pld <= plan.target_epsilon
    assert epsilon_pld([plan.training_charge(5)], 1e-3) <= plan.target_epsilon


def test_spare_steps_are_paid_for_beforehand(plain, with_spare):
    assert with_spare.noise_multiplier > plain.noise_multiplier
    assert with_spare.planned_epsilon().pld < 0.97
    with_all = epsilon_pld([with_spare.training_charge(18)], 1e-3)
    assert 0.97 < with_all <= with_spare.target_epsilon
    assert sum(c.num_steps for c in with_spare.planned_charges()) == 12


def test_votes_are_charged_once_beside_the_steps(plain, with_votes):
    votes, training = with_votes.planned_charges()
    assert (votes.mechanism, votes.noise_multiplier, votes.sample_rate, votes.num_steps) == ("gaussian", 8.0, 1.0, 1)
    assert training == with_votes.training_charge(12)
    assert with_votes.noise_multiplier > plain.noise_multiplier
    assert plain.votes_charge() is None
    assert plain.planned_charges() == (plain.training_charge(12),)


def test_votes_that_leave_no_budget_are_refused():
    with pytest.raises(SpecError, match="other charges alone"):
        build(votes_noise_multiplier=0.5)


def test_a_step_is_charged_at_the_rate_and_noise_of_the_plan(plain):
    charge = plain.training_charge(3)
    assert (charge.mechanism, charge.purpose, charge.num_steps) == ("poisson_gaussian", "training", 3)
    assert (charge.sample_rate, charge.noise_multiplier) == (0.1, plain.noise_multiplier)


def test_noise_normaliser_and_grid_follow_from_public_constants(plain):
    plan = build(max_grad_norm=0.3, steps=12)
    assert plan.noise_multiplier == plain.noise_multiplier
    assert plan.noise_stddev == plan.noise_multiplier * 0.3
    assert plan.expected_batch_size == 0.1 * 200
    assert plan.grid <= 0.3 * 2**-20 < 2 * plan.grid


def test_a_plan_is_frozen_and_goes_into_the_ledger_as_plain_values(plain):
    with pytest.raises(FrozenInstanceError):
        plain.noise_multiplier = 0.1
    assert PrivacyPlan(**plain.to_plain()) == plain


def test_a_fixed_key_makes_the_plan_not_private(plain):
    assert plain.is_private
    assert not build(debug_fixed_key=0).is_private


def test_what_training_writes_into_the_ledger_is_what_was_planned(plain, tmp_path):
    store = Store(tmp_path / "ledger")
    attempt = begin_attempt(store, plain)
    training = make_training(steps=plain.steps, checkpoint_every=5)
    folder = CheckpointFolder(Store(tmp_path / "checkpoints"))
    assert train(make_state(), make_records(12), attempt, folder, plan=plain, training=training)
    ledger = read_ledger(store)
    assert [c.num_steps for c in ledger.charges] == [5, 5, 2]
    assert ledger.spent_epsilon() == plain.planned_epsilon().pld
    assert ledger.attempts == (plain.to_plain(),)


def test_noise_that_the_spec_states_is_taken_as_it_is(plain):
    assert build(noise_multiplier=plain.noise_multiplier + 1).noise_multiplier == plain.noise_multiplier + 1


def test_stated_noise_over_the_target_is_refused(plain):
    with pytest.raises(SpecError, match="noise_multiplier"):
        build(noise_multiplier=plain.noise_multiplier * 0.95)


def statistics_only(**changes) -> PrivacyPlan:
    settings = {
        "data": {"private": "p", "public": "q", "num_classes": 2},
        "privacy": {"target_epsilon": 1.0, "target_delta": 1e-3, "sample_rate": 1, "nominal_size": 200},
        "schedule": {"split_step": 0},
        "training": {"steps": 0},
        "sampling": {"starts": "statistics"},
    }
    return build_plan(RunSpec(**{**settings, **changes}))


def test_without_steps_the_statistics_have_the_least_noise_that_fits():
    plan = statistics_only()
    (charge,) = plan.planned_charges()
    assert charge == plan.statistics_charge()
    assert charge.mechanism == "gaussian"
    assert 0.999 < plan.planned_epsilon().pld <= 1
    # Gaussian differential privacy in closed form (Balle and Wang 2018), an oracle of its own.
    from dp_accounting import gaussian_mechanism

    assert plan.noise_multiplier == pytest.approx(gaussian_mechanism.get_sigma_gaussian(1.0, 1e-3), rel=2e-3)


def test_stated_statistics_noise_is_paid_out_of_the_same_target():
    statistics = {"noise_multiplier": 8.0}
    plan = statistics_only(
        schedule={"split_step": 300}, training={"steps": 12}, statistics=statistics,
        privacy={"target_epsilon": 1.0, "target_delta": 1e-3, "sample_rate": 0.1, "nominal_size": 200},
    )  # fmt: skip
    assert [c.purpose for c in plan.planned_charges()] == ["class statistics", "training"]
    assert 0.97 < plan.planned_epsilon().pld <= 1
    assert plan.noise_multiplier > build().noise_multiplier
    with pytest.raises(SpecError, match=r"costs epsilon .* over privacy\.target_epsilon"):
        statistics_only(statistics={"noise_multiplier": 0.5})
