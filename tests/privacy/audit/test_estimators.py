"""Bounds on epsilon: closed forms, brute force, and simulated mechanisms, right ones and too quiet ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.audit.estimators import (
    epsilon_clopper_pearson,
    epsilon_of_mu,
    epsilon_one_run,
    lower_bounds,
    mu_of_epsilon,
    mu_of_rates,
    one_run_p_value,
    threshold_error_rates,
    upper_rate,
)
from rapid_dist.privacy.charges import Charge

DELTA = 1e-5


def simulate(seed: int, *, mu: float, num_canaries: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Scores of canaries under a mechanism with mu-GDP, and their coins."""
    rng = np.random.default_rng(seed)
    coins = rng.random(num_canaries) < 0.5
    return rng.normal(size=num_canaries) + mu * coins, coins


@pytest.mark.parametrize(("sigma", "steps"), [(10.0, 100), (1.0, 1), (0.5, 1), (40.0, 100)])
def test_epsilon_of_mu_is_that_of_the_gaussian_mechanism(sigma, steps):
    charge = Charge(mechanism="gaussian", noise_multiplier=sigma, num_steps=steps, purpose="test")
    assert epsilon_of_mu(math.sqrt(steps) / sigma, DELTA) == pytest.approx(epsilon_pld((charge,), DELTA), abs=2e-4)


@pytest.mark.parametrize("mu", [0.01, 1.0, 8.0])
def test_mu_of_epsilon_undoes_epsilon_of_mu(mu):
    assert mu_of_epsilon(epsilon_of_mu(mu, DELTA), DELTA) == pytest.approx(mu, rel=1e-6)


def test_epsilon_of_mu_is_zero_without_a_signal():
    assert epsilon_of_mu(0.0, DELTA) == 0.0
    assert epsilon_of_mu(1e-6, DELTA) == 0.0


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (9, 10), (40, 1000)])
def test_the_upper_rate_is_where_so_few_hits_become_that_unlikely(hits, trials):
    assert stats.binom.cdf(hits, trials, upper_rate(hits, trials, 0.02)) == pytest.approx(0.02)


def test_nothing_but_hits_bounds_no_rate():
    assert upper_rate(10, 10, 0.02) == 1.0


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
    claimed = epsilon_of_mu(mu, DELTA)
    for seed in range(30):
        bounds = lower_bounds(*simulate(seed, mu=mu), delta=DELTA, significance=0.01)
        assert max(bounds.gdp, bounds.one_run, bounds.clopper_pearson) <= claimed
        assert bounds.gdp > 0.5 * claimed or mu < 1


@pytest.mark.parametrize("factor", [math.sqrt(2), 2.0])
def test_too_little_noise_is_always_over_the_claim(factor):
    claimed = epsilon_of_mu(1.0, DELTA)
    for seed in range(30):
        assert lower_bounds(*simulate(seed, mu=factor), delta=DELTA, significance=0.01).gdp > claimed + 0.01


def test_no_noise_at_all_is_over_the_claim_in_every_reading():
    coins = simulate(0, mu=1.0)[1]
    bounds = lower_bounds(coins.astype(float), coins, delta=DELTA, significance=0.01)
    assert min(bounds.gdp, bounds.one_run, bounds.clopper_pearson) > epsilon_of_mu(1.0, DELTA)


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
