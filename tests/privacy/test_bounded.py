"""Charges known by a bound only: their closed forms, how they compose, and that nothing chokes on them."""

from __future__ import annotations

import json
import math

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from scipy.optimize import brentq
from scipy.stats import norm

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.accounting import (
    check_agreement,
    compute_epsilon,
    epsilon_pld,
    epsilon_rdp,
    epsilon_without_amplification,
    is_within,
    quick_epsilon,
)
from rapid_dist.privacy.calibration import Budget
from rapid_dist.privacy.charges import BestRunCharge, Charge, SubsetCharge, charge_from_dict, merge_charges

DELTA = 1e-5
RUN = Charge(
    mechanism="poisson_gaussian", noise_multiplier=9.87, sample_rate=2048 / 60000, num_steps=5860, purpose="training"
)
VOTES = Charge(mechanism="gaussian", noise_multiplier=2.0, num_steps=1, purpose="votes")


def best_run(**changes) -> BestRunCharge:
    values = {"charges": (RUN,), "num_runs": "logarithmic", "mean_runs": 10, "delta": DELTA, "purpose": "tuning"}
    return BestRunCharge(**{**values, **changes})


def subset(**changes) -> SubsetCharge:
    values = {"subset_rate": 0.1, "epsilon": 2.293, "delta": 1e-6, "purpose": "tuning"}
    return SubsetCharge(**{**values, **changes})


@pytest.mark.parametrize(
    ("num_runs", "mean_runs", "expected"),
    [
        ("logarithmic", 5, 1.760),
        ("logarithmic", 50, 2.170),
        ("geometric", 5, 2.065),
        ("geometric", 20, 2.492),
        ("poisson", 5, 1.830),
        ("poisson", 50, 6.564),
    ],
)
def test_the_best_run_costs_what_dp_accounting_says(num_runs, mean_runs, expected):
    """Oracle: the event built by hand, and the numbers that were published for it before."""
    run = dp_accounting.PoissonSampledDpEvent(RUN.sample_rate, dp_accounting.GaussianDpEvent(RUN.noise_multiplier))
    shape = {"logarithmic": 0, "geometric": 1, "poisson": math.inf}[num_runs]
    event = dp_accounting.dp_event.RepeatAndSelectDpEvent(
        dp_accounting.SelfComposedDpEvent(run, RUN.num_steps), mean_runs, shape
    )
    oracle = rdp.RdpAccountant().compose(event).get_epsilon(DELTA)
    epsilon, delta = best_run(num_runs=num_runs, mean_runs=mean_runs).bound
    assert epsilon == pytest.approx(oracle, abs=1e-9)
    assert epsilon == pytest.approx(expected, abs=6e-4)
    assert delta == DELTA


@pytest.mark.parametrize(
    ("rate", "epsilon", "delta"), [(0.1, 2.293, 1e-5), (1.0, 3.0, 1e-6), (0.01, 8.0, 1e-4), (0.5, 1e-3, 1e-9)]
)
def test_the_subset_bound_is_the_closed_form(rate, epsilon, delta):
    found = subset(subset_rate=rate, epsilon=epsilon, delta=delta).bound
    assert found == pytest.approx((math.log(1 + rate * (math.exp(epsilon) - 1)), rate * delta), rel=1e-9)


def test_the_worked_example_of_a_subset():
    assert subset(delta=DELTA).bound[0] == pytest.approx(0.637, abs=5e-4)


@pytest.mark.parametrize("charge", [best_run(), subset(delta=1e-4)])
@pytest.mark.parametrize("coarseness", [1, 10])
def test_alone_at_its_delta_it_costs_exactly_its_epsilon(charge, coarseness):
    epsilon, delta = charge.bound
    assert epsilon_pld([charge], delta, coarseness=coarseness) == epsilon
    assert epsilon_pld([charge], delta * 0.999) == math.inf
    assert epsilon_pld([charge], min(0.9, delta * 10), coarseness=coarseness) < epsilon


def test_alone_at_another_delta_it_costs_what_the_grid_says():
    """Oracle: dp_accounting's own distribution of a bound, whose grid rounds upwards by at most 1e-4."""
    epsilon, delta = subset().bound
    parameters = pld.common.DifferentialPrivacyParameters(epsilon, delta)
    for at in (1e-6, 1e-3, 0.1, 0.3):
        grid = pld.privacy_loss_distribution.from_privacy_parameters(parameters, 1e-4).get_epsilon_for_delta(at)
        assert epsilon_pld([subset()], at) <= grid <= epsilon_pld([subset()], at) + 1.1e-4


def test_beside_a_gaussian_the_delta_is_the_mixture_over_the_bound():
    """Oracle: d + (1 - d) (p D(x - e) + (1 - p) D(x + e)), D the closed delta of the Gaussian, p = 1 / (1 + e^-e)."""
    epsilon, delta = subset().bound
    up = 1 / (1 + math.exp(-epsilon))

    def gaussian(x: float) -> float:
        mu = 1 / VOTES.noise_multiplier
        return norm.cdf(mu / 2 - x / mu) - math.exp(x) * norm.cdf(-mu / 2 - x / mu)

    def together(x: float) -> float:
        return delta + (1 - delta) * (up * gaussian(x - epsilon) + (1 - up) * gaussian(x + epsilon))

    exact = brentq(lambda x: together(x) - DELTA, 0, 20)
    found = epsilon_pld([VOTES, subset()], DELTA)
    assert exact - 1e-6 <= found <= exact + 5e-4


def test_two_equal_bounds_are_counted_twice():
    once, twice = (epsilon_pld([subset()] * n, DELTA) for n in (1, 2))
    assert once < twice <= 2 * subset().bound[0] + 2e-4
    assert len(merge_charges([subset(), subset()])) == 2


def test_order_does_not_matter():
    charges = [subset(), RUN, best_run(delta=1e-6), VOTES]
    assert merge_charges(charges) == merge_charges(charges[::-1])
    assert epsilon_pld(charges, DELTA) == epsilon_pld(charges[::-1], DELTA)


def test_coarser_grids_never_give_less():
    charges = [VOTES, subset()]
    fine, coarse = (epsilon_pld(charges, DELTA, coarseness=c) for c in (1, 10))
    assert fine <= coarse <= fine + 0.01
    assert is_within(charges, DELTA, fine)
    assert not is_within(charges, DELTA, fine - 1e-3)


@pytest.mark.parametrize("count", [compute_epsilon, quick_epsilon])
def test_an_infinite_rdp_is_no_contradiction_beside_a_bound_and_the_rest_is_checked(count):
    result = count([VOTES, subset()], delta=DELTA)
    assert (result.prv, result.rdp) == (None, math.inf)
    assert result.prv_reason
    check_agreement(result)
    assert result.of_gaussians == count([VOTES], delta=DELTA)
    assert epsilon_rdp([VOTES, subset()], DELTA) == math.inf


def test_a_dispute_over_the_other_charges_is_still_seen():
    result = compute_epsilon([VOTES, subset()], delta=DELTA)
    object.__setattr__(result.of_gaussians, "rdp", 0.0)
    with pytest.raises(PrivacyError, match="disagree"):
        check_agreement(result)


def test_replacing_costs_no_more_than_removing_and_adding():
    epsilon, delta = subset().bound
    found = epsilon_pld([subset()], (1 + math.exp(epsilon)) * delta * 1.0000001, neighboring_relation="replace_one")
    assert found == pytest.approx(2 * epsilon, abs=1e-6)


def test_without_secret_sampling_nothing_is_known():
    assert epsilon_without_amplification([VOTES, subset()], DELTA) == math.inf


def test_a_budget_counts_bounds_among_what_is_known_to_fit():
    budget = Budget(2.0, DELTA)
    assert budget.fits([subset(), subset()])
    assert not budget.fits([subset()] * 4)
    assert budget.fits([subset()])
    assert 0 < budget.largest_fitting([subset()], RUN, 5860) < 5860 + 1


@pytest.mark.parametrize("charge", [best_run(charges=(RUN, VOTES)), subset(), RUN])
def test_a_charge_survives_json(charge):
    assert charge_from_dict(json.loads(json.dumps(charge.to_dict()))) == charge


@pytest.mark.parametrize("charge", [best_run(), subset()])
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(bound=0.1),
        lambda d: d.pop("delta"),
        lambda d: d.update(mechanism="exponential"),
        lambda d: d.update(mechanism=["poisson_subset"]),
        lambda d: d.update(delta=0.0),
        lambda d: d.update(purpose=""),
    ],
)
def test_what_is_not_understood_is_refused(charge, change):
    values = charge.to_dict()
    change(values)
    with pytest.raises(SpecError):
        charge_from_dict(values)


@pytest.mark.parametrize("change", [{"charges": ()}, {"charges": (subset(),)}, {"num_runs": "fixed"}, {"mean_runs": 1}])
def test_impossible_best_runs_cannot_be_made(change):
    with pytest.raises(SpecError):
        best_run(**change)


@pytest.mark.parametrize("change", [{"subset_rate": 0}, {"subset_rate": 1.1}, {"epsilon": 0}, {"epsilon": math.inf}])
def test_impossible_subsets_cannot_be_made(change):
    with pytest.raises(SpecError):
        subset(**change)
