import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy import accounting
from rapid_dist.privacy.accounting import (
    EpsilonResult,
    check_agreement,
    compute_epsilon,
    epsilon_pld,
    epsilon_rdp,
    is_within,
)
from rapid_dist.privacy.charges import Charge

DELTA = 1e-5


def poisson(q: float, sigma: float, num_steps: int) -> Charge:
    return Charge(
        mechanism="poisson_gaussian", noise_multiplier=sigma, sample_rate=q, num_steps=num_steps, purpose="training"
    )


def gaussian(sigma: float, num_steps: int = 1) -> Charge:
    return Charge(mechanism="gaussian", noise_multiplier=sigma, num_steps=num_steps, purpose="votes")


def replaced(charges: list[Charge], delta: float) -> float:
    return epsilon_pld(charges, delta, neighboring_relation="replace_one")


# expected batch of 60000, steps, noise multiplier, PLD, PRV, RDP at delta 1e-5: two codes agree on each row.
GOLDEN = [
    (256, 11719, 1.90, 0.9813347122050092, 0.9912562061265761, 1.074087781834091),
    (256, 11719, 0.60, 9.814801577048641, 9.825368825981435, 11.022423690998782),
    (256, 23438, 2.62, 0.9667478192176758, 0.9765128343101064, 1.0566861939728063),
    (256, 23438, 0.67, 9.832703858673225, 9.843175286961975, 10.794313034683231),
    (512, 11719, 3.58, 0.9849078921503491, 0.9948288573778683, 1.0767863048317678),
    (512, 11719, 0.78, 9.730717750405207, 9.741190322148768, 10.596809758775125),
    (1024, 5860, 4.98, 0.9923891444850631, 1.002386173013994, 1.085157580826664),
    (1024, 5860, 0.93, 9.888347298867034, 9.898827696707967, 10.721852696447716),
    (2048, 5860, 9.87, 0.9916056230822708, 1.0016022202649457, 1.083723983475735),
    (2048, 5860, 1.49, 9.947640629596728, 9.958097806096847, 10.711658647450367),
    (4096, 4395, 16.93, 0.9995293688535263, 1.0095453819927502, 1.0923620713998687),
    (4096, 4395, 2.39, 9.946612184081365, 9.957066646309675, 10.69534394934423),
]


@pytest.mark.parametrize(("batch", "num_steps", "sigma", "pld", "prv", "rdp"), GOLDEN)
def test_golden_epsilon(batch, num_steps, sigma, pld, prv, rdp):
    result = compute_epsilon([poisson(batch / 60000, sigma, num_steps)], delta=DELTA)
    assert (result.pld, result.prv, result.rdp) == pytest.approx((pld, prv, rdp), abs=1e-4)
    assert set(result.versions) == {"dp-accounting", "opacus"}
    check_agreement(result)


@pytest.mark.parametrize(
    ("charge", "delta", "pld", "rdp"),
    [
        (poisson(0.04, 1.5, 2250), 1e-5, 6.768787, 7.329335),  # Opacus's own test, at 2250 steps
        (poisson(150 / 60000, 1.3, 6000), 1e-5, 0.640111, 0.7242234026),  # TF Privacy Test0
        (poisson(100 / 100000, 1.0, 30000), 1e-7, 1.098200, 1.4154988495),  # TF Privacy Test1
        (poisson(0.01, 1.0, 1000), 1e-5, 1.828244, 2.101367),
    ],
)
def test_values_published_by_other_libraries(charge, delta, pld, rdp):
    assert epsilon_pld([charge], delta) == pytest.approx(pld, abs=1e-4)
    assert epsilon_rdp([charge], delta) == pytest.approx(rdp, abs=1e-4)


def analytic_gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle and Wang 2018, Theorem 8."""

    def excess(epsilon: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)) - delta

    return brentq(excess, 0, 10 * mu + mu**2)


@pytest.mark.parametrize(("sigma", "num_steps"), [(10.0, 100), (1.0, 1), (50.0, 1), (0.7, 1)])
def test_unsampled_gaussian_has_its_closed_form(sigma, num_steps):
    expected = analytic_gaussian_epsilon(math.sqrt(num_steps) / sigma, DELTA)
    assert epsilon_pld([gaussian(sigma, num_steps)], DELTA) == pytest.approx(expected, abs=1e-4)
    assert epsilon_pld([poisson(1.0, sigma, num_steps)], DELTA) == pytest.approx(expected, abs=1e-4)
    check_agreement(compute_epsilon([gaussian(sigma, num_steps)], delta=DELTA))


def test_one_poisson_gaussian_step_has_its_closed_form():
    """delta(eps) of the two orders of N(0, s^2) and (1 - q) N(0, s^2) + q N(1, s^2), integrated exactly."""
    q, sigma = 0.1, 0.8
    epsilon = epsilon_pld([poisson(q, sigma, 1)], DELTA)

    def delta_when_removed(e: float) -> float:  # the set where mixture > e^eps times null is a half line
        x = sigma**2 * math.log((math.exp(e) - 1 + q) / q) + 0.5
        null, shifted = norm.sf(x, scale=sigma), norm.sf(x, loc=1, scale=sigma)
        return (1 - q) * null + q * shifted - math.exp(e) * null

    assert delta_when_removed(epsilon) <= DELTA * (1 + 1e-9)
    assert delta_when_removed(epsilon - 1e-3) > DELTA


def test_nothing_charged_costs_nothing():
    result = compute_epsilon([], delta=DELTA)
    assert (result.pld, result.prv, result.rdp) == (0, 0, 0)
    check_agreement(result)


def test_composition_only_counts_steps_and_ignores_order():
    parts = [poisson(0.05, 2.0, 30), gaussian(20.0), poisson(0.05, 2.0, 70)]
    assert epsilon_pld(parts, DELTA) == epsilon_pld([gaussian(20.0), poisson(0.05, 2.0, 100)], DELTA)


@pytest.mark.parametrize("accountant", [epsilon_pld, epsilon_rdp, replaced])
@pytest.mark.parametrize(
    "worse",
    [
        [poisson(0.05, 2.0, 101)],
        [poisson(0.051, 2.0, 100)],
        [poisson(0.05, 1.99, 100)],
        [poisson(0.05, 2.0, 100), gaussian(100.0)],
    ],
)
def test_more_steps_more_sampling_or_less_noise_cost_more(worse, accountant):
    assert accountant(worse, DELTA) > accountant([poisson(0.05, 2.0, 100)], DELTA)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    q=st.floats(0.01, 0.9),
    sigma=st.floats(1.5, 5),
    first=st.integers(1, 60),
    second=st.integers(1, 60),
)
def test_two_runs_composed_cost_what_one_run_of_all_their_steps_does(q, sigma, first, second):
    """The second run's noise differs by 1e-9, so that its loss is composed and not merely added up as steps."""
    apart = [poisson(q, sigma, first), poisson(q, sigma * (1 + 1e-9), second)]
    whole = [poisson(q, sigma, first + second)]
    for accountant, room in ((epsilon_pld, 2e-4), (epsilon_rdp, 1e-6), (replaced, 2e-4)):
        assert accountant(apart, DELTA) == pytest.approx(accountant(whole, DELTA), abs=room)


def test_prv_composes_runs_of_different_noise():
    result = compute_epsilon([poisson(0.05, 2.0, 100), poisson(0.02, 1.0, 50)], delta=DELTA)
    assert result.prv is not None
    check_agreement(result)


def test_a_smaller_delta_costs_more_epsilon():
    charges = [poisson(0.05, 2.0, 100)]
    assert epsilon_pld(charges, 1e-6) > epsilon_pld(charges, 1e-5)


@pytest.mark.parametrize("charge", [poisson(0.01, 1.0, 1000), poisson(0.5, 20.0, 300), gaussian(3.0)])
def test_a_coarser_grid_is_never_optimistic(charge):
    fine, coarse = epsilon_pld([charge], DELTA), epsilon_pld([charge], DELTA, coarseness=10)
    assert fine <= coarse <= fine + 0.01


@pytest.mark.parametrize("charge", [poisson(0.01, 1.0, 1000), poisson(0.5, 20.0, 300), gaussian(3.0)])
def test_the_quick_comparison_answers_as_the_exact_one(charge):
    exact, coarse = epsilon_pld([charge], DELTA), epsilon_pld([charge], DELTA, coarseness=10)
    for limit in (0.0, exact - 1e-9, exact, (exact + coarse) / 2, coarse, 100.0):
        assert is_within([charge], DELTA, limit) is (exact <= limit)
    assert is_within([], DELTA, 0.0)


def test_hopeless_noise_is_answered_with_a_large_bound_in_bounded_time():
    assert epsilon_pld([gaussian(0.1)], DELTA) == pytest.approx(analytic_gaussian_epsilon(10.0, DELTA), rel=1e-3)
    assert epsilon_pld([poisson(0.02, 0.1, 1000)], DELTA) > 1000
    assert epsilon_pld([gaussian(1e-200)], DELTA) == math.inf


def test_the_central_limit_approximation_is_below_the_truth_and_not_offered():
    """Golden row 2 comes out as 8.75 by it, where two exact codes say 9.81."""
    with pytest.raises(PrivacyError):
        check_agreement(EpsilonResult(pld=8.7503, prv=9.8254, rdp=11.0224, delta=DELTA))
    numbers = {name for name, kind in EpsilonResult.__annotations__.items() if kind.startswith("float")}
    assert numbers == {"pld", "prv", "rdp", "delta", "pld_rounding"}


@pytest.mark.parametrize("delta", [0, 1, -1e-5, float("nan"), "1e-5", True])
def test_delta_outside_its_range_is_refused(delta):
    with pytest.raises(SpecError):
        compute_epsilon([], delta=delta)


def test_anything_but_a_charge_is_refused():
    with pytest.raises(SpecError):
        epsilon_pld([{"mechanism": "gaussian"}], DELTA)


AGREED = EpsilonResult(pld=9.9466, prv=9.9571, rdp=10.6953, delta=DELTA)


@pytest.mark.parametrize(
    "change",
    [
        {"pld": 9.9466 - 0.01},  # too small by one percent of epsilon 1: PRV sees it
        {"pld": 9.9571 + 0.001},
        {"pld": float("nan")},
        {"pld": float("inf")},
        {"pld": -0.1},
        {"prv": 9.93},
        {"prv": float("nan")},
        {"rdp": 9.9},
        {"rdp": float("nan")},
        {"rdp": 9.9, "prv": None, "prv_reason": "crashed"},
    ],
)
def test_disagreement_is_refused(change):
    check_agreement(AGREED)
    with pytest.raises(PrivacyError):
        check_agreement(dataclasses.replace(AGREED, **change))


def test_replace_one_rdp_is_the_kind_of_number_the_check_stops():
    """dp_accounting's RDP under replace-one: 1.3085 where PLD is 2.5944 (its issue 378)."""
    with pytest.raises(PrivacyError):
        check_agreement(EpsilonResult(pld=2.5944, prv=None, rdp=1.3085, delta=DELTA))


def test_a_crash_of_prv_leaves_a_reason_and_rdp_as_the_check(monkeypatch):
    from opacus.accountants import PRVAccountant

    def crash(self, delta, **kwargs):
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr(PRVAccountant, "get_epsilon", crash)
    accounting._epsilon_prv.cache_clear()
    result = compute_epsilon([poisson(0.01, 1.0, 1000)], delta=DELTA)
    accounting._epsilon_prv.cache_clear()
    assert result.prv is None
    assert "Discrete mean" in result.prv_reason
    check_agreement(result)


@pytest.mark.parametrize(
    "charge", [poisson(1e-6, 0.5, 1000), poisson(0.02, 1000.0, 10), poisson(0.001, 5.0, 10), poisson(0.02, 0.3, 10)]
)
def test_accountants_agree_at_the_edges(charge):
    check_agreement(compute_epsilon([charge], delta=DELTA))
