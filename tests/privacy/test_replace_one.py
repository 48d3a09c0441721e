import dataclasses
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.accounting import check_agreement, compute_epsilon, epsilon_pld, epsilon_rdp
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.replace_one import ReplaceOneLoss, renyi_divergences

DELTA = 1e-5


def poisson(q: float, sigma: float, num_steps: int) -> Charge:
    return Charge(
        mechanism="poisson_gaussian", noise_multiplier=sigma, sample_rate=q, num_steps=num_steps, purpose="training"
    )


def gaussian(sigma: float, num_steps: int = 1) -> Charge:
    return Charge(mechanism="gaussian", noise_multiplier=sigma, num_steps=num_steps, purpose="votes")


def replaced(charges, delta=DELTA) -> float:
    return epsilon_pld(charges, delta, neighboring_relation="replace_one")


def renyi_of_pair(q: float, sigma: float, order: float, u: float, v: float) -> float:
    """Oracle: the Renyi divergence of (1-q) N(0) + q N(u) from (1-q) N(0) + q N(v), by 30-digit quadrature."""

    def mixture(x, mean):
        at = mpmath.npdf(x, mean, sigma)
        return (1 - q) * mpmath.npdf(x, 0, sigma) + q * at

    with mpmath.workdps(30):
        edges = [i * sigma * 4 for i in range(-10, int(order / sigma**2) // 2 + 12)]
        moment = mpmath.quad(lambda x: mixture(x, u) ** order * mixture(x, v) ** (1 - order), edges)
        return float(mpmath.log(moment) / (order - 1))


@pytest.mark.parametrize(("q", "sigma", "order"), [(0.3, 0.8, 2.5), (0.01, 1.0, 8), (0.9, 2.0, 6), (1e-4, 0.6, 3)])
def test_renyi_divergence_is_that_of_the_worst_pair(q, sigma, order):
    expected = renyi_of_pair(q, sigma, order, 1, -1)
    assert renyi_divergences(q, sigma, [order])[0] == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("u", "v"), [(1, 0), (0, 1), (1, 0.5), (0.5, -1), (-0.2, 0.9)])
def test_no_other_pair_of_clipped_gradients_is_worse(u, v):
    assert renyi_of_pair(0.3, 0.8, 2.5, u, v) < renyi_divergences(0.3, 0.8, [2.5])[0]


def test_unsampled_divergence_is_that_of_half_the_noise():
    orders = [1.5, 2, 64]
    assert renyi_divergences(1.0, 3.0, orders) == pytest.approx([a / (2 * 1.5**2) for a in orders])


def test_nearly_sampling_everyone_costs_nearly_as_much_as_sampling_everyone():
    orders = [1.1, 2, 16, 63]
    assert renyi_divergences(1 - 1e-12, 3.0, orders) == pytest.approx(renyi_divergences(1.0, 3.0, orders), rel=1e-6)


def test_an_order_too_wide_for_the_grid_gets_the_unsampled_bound():
    assert renyi_divergences(0.01, 0.01, [1024.0])[0] == 2 * 1024 / 0.01**2


@pytest.mark.parametrize(("q", "sigma"), [(0.3, 0.8), (0.01, 1.0), (1e-6, 0.5), (0.999, 5.0), (1.0, 2.0), (0.5, 0.02)])
def test_the_distribution_of_the_loss_is_that_of_the_log_ratio(q, sigma):
    """Oracle: the log ratio at x, and P below x, except where rounding hides a loss that is nearly 0."""
    x = np.linspace(-6 * sigma, 1 + 6 * sigma, 401)
    log_in, log_out = math.log(q), math.log1p(-q) if q < 1 else -math.inf
    loss = np.logaddexp(log_out, log_in + (2 * x - 1) / (2 * sigma**2))
    loss -= np.logaddexp(log_out, log_in - (2 * x + 1) / (2 * sigma**2))
    below = (1 - q) * norm.cdf(x, scale=sigma) + q * norm.cdf(x, loc=1, scale=sigma)
    is_clear = np.abs(loss) > 1e-9
    assert is_clear.sum() > 100
    assert ReplaceOneLoss(q, sigma).cdf(loss)[is_clear] == pytest.approx(below[is_clear], abs=1e-7)


@pytest.mark.parametrize(("charge", "expected"), [(gaussian(10.0, 10), 2.5944), (poisson(0.01, 1.0, 1000), 2.8434)])
def test_replace_one_has_the_known_values(charge, expected):
    """dp_accounting's RDP says 1.3085 for the first (its issue 378), below the truth."""
    result = compute_epsilon([charge], delta=DELTA, neighboring_relation="replace_one")
    assert result.pld == pytest.approx(expected, abs=1e-4)
    assert result.pld <= result.prv <= result.pld + 0.012
    assert result.rdp >= result.pld
    assert result.neighboring_relation == "replace_one"
    check_agreement(result)


def test_one_sampled_step_has_its_closed_form():
    """delta(eps) of the worst pair, over half-lines x > t."""
    q, sigma = 0.1, 0.8
    epsilon = replaced([poisson(q, sigma, 1)])
    t = np.linspace(-5, 10, 200_001)

    def delta_at(e: float) -> float:
        tails = q * (norm.sf(t, 1, sigma) - math.exp(e) * norm.sf(t, -1, sigma))
        return np.max((1 - q) * (1 - math.exp(e)) * norm.sf(t, 0, sigma) + tails)

    assert delta_at(epsilon) <= DELTA * (1 + 1e-9)
    assert delta_at(epsilon - 1e-3) > DELTA


@pytest.mark.parametrize("num_steps", [1, 40])
def test_replacing_without_sampling_is_adding_with_half_the_noise(num_steps):
    one, other = [gaussian(5.0, num_steps)], [gaussian(2.5, num_steps)]
    assert replaced(one) == pytest.approx(epsilon_pld(other, DELTA), abs=1e-4)
    assert epsilon_rdp(one, DELTA, neighboring_relation="replace_one") == pytest.approx(epsilon_rdp(other, DELTA))
    result = compute_epsilon(one, delta=DELTA, neighboring_relation="replace_one")
    assert result.prv == pytest.approx(compute_epsilon(other, delta=DELTA).prv, abs=1e-3)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(q=st.floats(0.01, 0.9), sigma=st.floats(1.5, 5), num_steps=st.integers(1, 60))
def test_replacing_lies_between_adding_once_and_removing_then_adding(q, sigma, num_steps):
    charges = [poisson(q, sigma, num_steps)]
    alone = epsilon_pld(charges, DELTA)
    assert replaced(charges) >= alone
    # Two neighbouring steps, one after the other: (2 eps, (1 + e^eps) delta).
    assert replaced(charges, min(0.99, (1 + math.exp(alone)) * DELTA)) <= 2 * alone + 1e-3


def test_an_understated_replace_one_number_is_refused():
    """What dp_accounting's RDP says under replace-one is half of what it must be."""
    charges = [gaussian(10.0, 10)]
    honest = compute_epsilon(charges, delta=DELTA, neighboring_relation="replace_one")
    understated = dataclasses.replace(honest, prv=None, rdp=epsilon_rdp(charges, DELTA))
    with pytest.raises(PrivacyError):
        check_agreement(understated)


@pytest.mark.parametrize("relation", ["replace_special", "", None])
def test_other_relations_are_refused(relation):
    with pytest.raises(SpecError, match="add_or_remove_one, replace_one"):
        epsilon_pld([gaussian(1.0)], DELTA, neighboring_relation=relation)
