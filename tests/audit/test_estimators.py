"""Bounds on epsilon: closed forms, brute force, and simulated mechanisms, right ones and too quiet ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from scipy import stats

from rapid_dist.audit.estimators import (
    epsilon_clopper_pearson,
    epsilon_one_run,
    lower_bounds,
    mu_of_rates,
    one_run_p_value,
    threshold_error_rates,
)
from rapid_dist.errors import SpecError

DELTA = 1e-5


def simulate(seed: int, *, mu: float, num_canaries: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Scores of canaries under a mechanism with mu-GDP, and their coins."""
    rng = np.random.default_rng(seed)
    coins = rng.random(num_canaries) < 0.5
    return rng.normal(size=num_canaries) + mu * coins, coins


def test_upper_ends_of_error_rates_are_closed_forms_at_no_error_and_at_nothing_but_errors():
    """(1 - p)^n = significance at no error in n, and 1 at n errors in n (Clopper and Pearson 1934)."""
    coins = np.arange(200) % 2 == 0
    rates = threshold_error_rates(coins.astype(float), coins, significance=0.06)
    # Cuts at 0, 0.5 and 1 make six rates: 0.01 each, of 90 in and 90 out. A cut at 1 misses everyone in.
    none_of_90 = 1 - 0.01 ** (1 / 90)
    np.testing.assert_allclose(rates[0], [none_of_90, none_of_90], rtol=1e-9)
    np.testing.assert_allclose(rates[-1], [none_of_90, 1.0], rtol=1e-9)


def test_the_gdp_reading_is_epsilon_of_a_gaussian_mechanism_in_closed_form():
    """delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) (Balle and Wang 2018, Equation 6)."""
    scores, coins = simulate(0, mu=1.0)
    epsilon = lower_bounds(scores, coins, delta=DELTA, significance=0.01).gdp
    mu = mu_of_rates(threshold_error_rates(scores, coins, significance=0.01))
    delta = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
    assert delta == pytest.approx(DELTA, rel=1e-6)


def test_the_gdp_reading_is_zero_without_a_signal():
    scores, coins = simulate(1, mu=0.0)
    assert lower_bounds(scores, coins, delta=DELTA, significance=0.01).gdp == 0.0


def test_clopper_pearson_reads_both_directions():
    rates = np.array([[0.1, 0.5]])
    assert epsilon_clopper_pearson(rates, delta=0.0) == pytest.approx(math.log(0.5 / 0.1))
    assert epsilon_clopper_pearson(rates[:, ::-1], delta=0.0) == pytest.approx(math.log(0.5 / 0.1))
    assert epsilon_clopper_pearson(np.array([[0.6, 0.6]]), delta=0.0) == 0.0


def test_mu_of_known_rates_is_the_signal():
    rates = np.array([[stats.norm.sf(0.7), stats.norm.cdf(0.7 - 2.0)], [1.0, 0.5]])
    assert mu_of_rates(rates) == pytest.approx(2.0)
    assert mu_of_rates(np.array([[0.9, 0.9]])) == 0.0


def test_the_one_run_bound_agrees_with_brute_force():
    """m = r = 8 guesses, 7 right: the maximum over i of the theorem, written out."""
    num, right, epsilon, delta = 8, 7, 0.8, 0.01
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    at_least = [sum(math.comb(num, k) * p**k * (1 - p) ** (num - k) for k in range(v, num + 1)) for v in range(num + 1)]
    alpha = max((at_least[right - i] - at_least[right]) / i for i in range(1, right + 1))
    expected = at_least[right] + 2 * num * delta * alpha
    assert one_run_p_value(num, num, right, epsilon, delta) == pytest.approx(expected)


def test_the_one_run_bound_counts_guesses_of_randomised_response():
    """Coins told truly with probability e^eps / (1 + e^eps): the bound comes close to eps and not over it."""
    epsilon, rng = 2.0, np.random.default_rng(0)
    coins = rng.random(4000) < 0.5
    is_true = rng.random(4000) < 1 / (1 + math.exp(-epsilon))
    found = epsilon_one_run(np.where(coins == is_true, 1.0, -1.0), coins, delta=0.0, significance=0.01)
    assert 1.75 < found <= epsilon


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
def test_a_right_mechanism_is_never_over_its_claim(mu):
    claimed = get_epsilon_gaussian(1 / mu, DELTA)
    for seed in range(30):
        bounds = lower_bounds(*simulate(seed, mu=mu), delta=DELTA, significance=0.01)
        assert max(bounds.gdp, bounds.one_run, bounds.clopper_pearson) <= claimed
        assert bounds.gdp > 0.5 * claimed or mu < 1


@pytest.mark.parametrize("factor", [math.sqrt(2), 2.0])
def test_too_little_noise_is_always_over_the_claim(factor):
    claimed = get_epsilon_gaussian(1.0, DELTA)
    for seed in range(30):
        assert lower_bounds(*simulate(seed, mu=factor), delta=DELTA, significance=0.01).gdp > claimed + 0.01


def test_no_noise_at_all_is_over_the_claim_in_every_reading():
    coins = simulate(0, mu=1.0)[1]
    bounds = lower_bounds(coins.astype(float), coins, delta=DELTA, significance=0.01)
    assert min(bounds.gdp, bounds.one_run, bounds.clopper_pearson) > get_epsilon_gaussian(1.0, DELTA)


def test_thresholds_do_not_come_from_the_canaries_they_judge():
    scores, coins = simulate(0, mu=1.0, num_canaries=1000)
    before = threshold_error_rates(scores, coins, significance=0.05)
    scores[100:] *= 1e3  # thresholds stay where they were: the tests now cut near the middle
    after = threshold_error_rates(scores, coins, significance=0.05)
    assert len(before) == len(after)
    assert after[0, 0] < before[0, 0]


@pytest.mark.parametrize(
    ("scores", "coins"),
    [
        (np.zeros(50), np.zeros(50, dtype=bool)),
        (np.zeros(200), np.zeros(100, dtype=bool)),
        (np.zeros(200), np.zeros(200, dtype=bool)),
        (np.full(200, np.nan), np.arange(200) % 2 == 0),
    ],
)
def test_scores_that_cannot_be_judged_are_refused(scores, coins):
    with pytest.raises(SpecError):
        threshold_error_rates(scores, coins, significance=0.05)
