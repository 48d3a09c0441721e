import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.calibration import calibrate_noise_multiplier
from rapid_dist.privacy.charges import Charge

DELTA = 1e-5
VOTES = Charge(mechanism="gaussian", noise_multiplier=20.0, num_steps=1, purpose="noisy class votes")


def spent(noise_multiplier, sample_rate, num_steps, others=()):
    training = Charge(
        mechanism="poisson_gaussian",
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        num_steps=num_steps,
        purpose="training",
    )
    return epsilon_pld((*others, training), DELTA)


@pytest.mark.parametrize(
    ("target", "sample_rate", "num_steps", "others"),
    [
        (10.0, 4096 / 60000, 4395, ()),  # golden row 12: 2.39 costs 9.947
        (1.0, 0.02, 500, (VOTES,)),
        (3.0, 1.0, 100, ()),
        (0.01, 0.01, 100, ()),
    ],
)
def test_noise_fits_the_target_and_half_a_percent_less_does_not(target, sample_rate, num_steps, others):
    began = time.process_time()
    noise_multiplier = calibrate_noise_multiplier(
        target_epsilon=target, delta=DELTA, sample_rate=sample_rate, num_steps=num_steps, other_charges=others
    )
    assert time.process_time() - began < 30
    assert noise_multiplier == round(noise_multiplier, 4)
    assert spent(noise_multiplier, sample_rate, num_steps, others) <= target
    assert spent(noise_multiplier * 0.995, sample_rate, num_steps, others) > target


@settings(max_examples=4, deadline=None, derandomize=True)
@given(target=st.floats(0.3, 5), sample_rate=st.floats(0.02, 0.9), num_steps=st.integers(50, 3000))
def test_noise_never_overshoots_the_target(target, sample_rate, num_steps):
    noise_multiplier = calibrate_noise_multiplier(
        target_epsilon=target, delta=DELTA, sample_rate=sample_rate, num_steps=num_steps, tolerance=5e-3
    )
    assert spent(noise_multiplier, sample_rate, num_steps) <= target


def test_other_charges_need_more_noise():
    alone = calibrate_noise_multiplier(target_epsilon=1.0, delta=DELTA, sample_rate=0.05, num_steps=100)
    beside = calibrate_noise_multiplier(
        target_epsilon=1.0, delta=DELTA, sample_rate=0.05, num_steps=100, other_charges=[VOTES]
    )
    assert beside > alone


def test_replacing_a_record_needs_more_noise_and_fits_too():
    values = {"target_epsilon": 2.0, "delta": DELTA, "sample_rate": 0.05, "num_steps": 100}
    noise_multiplier = calibrate_noise_multiplier(**values, neighboring_relation="replace_one")
    assert noise_multiplier > calibrate_noise_multiplier(**values)
    charge = Charge(
        mechanism="poisson_gaussian",
        noise_multiplier=noise_multiplier,
        sample_rate=0.05,
        num_steps=100,
        purpose="training",
    )
    assert 1.98 < epsilon_pld([charge], DELTA, neighboring_relation="replace_one") <= 2.0


def test_other_charges_over_the_target_are_refused_with_numbers():
    with pytest.raises(SpecError, match=r"0\.16\d+.*0\.1 at delta"):
        calibrate_noise_multiplier(
            target_epsilon=0.1, delta=DELTA, sample_rate=0.05, num_steps=100, other_charges=[VOTES]
        )


@pytest.mark.parametrize(
    "change",
    [
        {"target_epsilon": 0},
        {"target_epsilon": float("inf")},
        {"delta": 0},
        {"sample_rate": 0},
        {"sample_rate": 1.5},
        {"num_steps": 0},
        {"tolerance": 0},
    ],
)
def test_settings_outside_their_range_are_refused(change):
    values = {"target_epsilon": 1.0, "delta": DELTA, "sample_rate": 0.05, "num_steps": 100}
    with pytest.raises(SpecError):
        calibrate_noise_multiplier(**{**values, **change})
