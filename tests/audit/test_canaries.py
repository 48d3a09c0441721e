"""The score of a canary is its log-likelihood ratio."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rapid_dist.audit.canaries import canary_scores
from rapid_dist.audit.estimators import lower_bounds
from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import Charge


def test_a_score_is_the_log_likelihood_ratio():
    x = np.random.default_rng(0).normal(size=(3, 5))
    outside, inside = stats.norm.pdf(x, 0, 2), 0.7 * stats.norm.pdf(x, 0, 2) + 0.3 * stats.norm.pdf(x, 1, 2)
    expected = np.log(inside / outside).sum(0)
    np.testing.assert_allclose(canary_scores(x, sample_rate=0.3, noise_multiplier=2.0), expected)


def test_with_every_record_in_every_step_the_score_orders_as_the_likelihood_ratio():
    x = np.random.default_rng(0).normal(size=(7, 20))
    almost = canary_scores(x, sample_rate=1 - 1e-12, noise_multiplier=2.0)
    assert np.array_equal(np.argsort(canary_scores(x, sample_rate=1.0, noise_multiplier=2.0)), np.argsort(almost))


def test_values_far_out_do_not_overflow():
    assert np.isfinite(canary_scores(np.full((2, 2), 1e6), sample_rate=0.1, noise_multiplier=0.01)).all()


def test_one_row_is_not_a_run():
    with pytest.raises(SpecError, match="steps, canaries"):
        canary_scores(np.zeros(4), sample_rate=0.1, noise_multiplier=1.0)


def sampled(seed: int, *, noise_multiplier: float, sample_rate: float = 0.05, steps: int = 200, size: int = 4000):
    rng = np.random.default_rng(seed)
    coins = rng.random(size) < 0.5
    took_part = coins & (rng.random((steps, size)) < sample_rate)
    return took_part + noise_multiplier * rng.normal(size=(steps, size)), coins


def test_sampled_canaries_stay_under_the_claim_and_half_the_noise_does_not():
    charge = Charge(mechanism="poisson_gaussian", sample_rate=0.05, noise_multiplier=1.0, num_steps=200, purpose="test")
    claimed = epsilon_pld((charge,), 1e-5)
    for seed in range(4):
        for noise, is_right in ((1.0, True), (0.5, False)):
            x, coins = sampled(seed, noise_multiplier=noise)
            scores = canary_scores(x, sample_rate=0.05, noise_multiplier=1.0)
            bounds = lower_bounds(scores, coins, delta=1e-5, significance=0.01)
            assert (bounds.gdp <= claimed) == is_right
            assert bounds.gdp > 0.4 * claimed
