import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.accounting import check_agreement, compute_epsilon, epsilon_pld
from rapid_dist.privacy.charges import Charge

DELTA = 1e-5


def poisson(q: float, sigma: float, num_steps: int) -> Charge:
    return Charge(
        mechanism="poisson_gaussian", noise_multiplier=sigma, sample_rate=q, num_steps=num_steps, purpose="training"
    )


def gaussian(sigma: float, num_steps: int = 1) -> Charge:
    return Charge(mechanism="gaussian", noise_multiplier=sigma, num_steps=num_steps, purpose="votes")


def replaced(charges, delta=DELTA) -> float:
    return epsilon_pld(charges, delta, neighboring_relation="replace_one")


@pytest.mark.parametrize(("charge", "expected"), [(gaussian(10.0, 10), 2.5944), (poisson(0.01, 1.0, 1000), 2.8434)])
def test_replace_one_has_the_known_values(charge, expected):
    """PLD stands alone; dp_accounting's RDP says 1.3085 for the first (its issue 378), below the truth."""
    result = compute_epsilon([charge], delta=DELTA, neighboring_relation="replace_one")
    assert result.pld == pytest.approx(expected, abs=1e-4)
    assert (result.prv, result.rdp) == (None, math.inf)
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


@settings(max_examples=4, deadline=None, derandomize=True)
@given(q=st.floats(0.01, 0.9), sigma=st.floats(1.5, 5), num_steps=st.integers(1, 60))
def test_replacing_lies_between_adding_once_and_removing_then_adding(q, sigma, num_steps):
    charges = [poisson(q, sigma, num_steps)]
    alone = epsilon_pld(charges, DELTA)
    assert replaced(charges) >= alone
    # Two neighbouring steps, one after the other: (2 eps, (1 + e^eps) delta).
    assert replaced(charges, min(0.99, (1 + math.exp(alone)) * DELTA)) <= 2 * alone + 1e-3


def test_no_finite_epsilon_is_refused():
    with pytest.raises(PrivacyError, match="no finite epsilon"):
        check_agreement(compute_epsilon([gaussian(1e-9)], delta=DELTA, neighboring_relation="replace_one"))


@pytest.mark.parametrize("relation", ["replace_special", "", None])
def test_other_relations_are_refused(relation):
    with pytest.raises(SpecError, match="add_or_remove_one, replace_one"):
        epsilon_pld([gaussian(1.0)], DELTA, neighboring_relation=relation)
