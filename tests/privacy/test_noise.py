import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.keyed import RunKey, uniform_uint64
from rapid_dist.privacy.noise import add_noise_on_grid, draw_gaussian, grid_for

KEY = RunKey.fixed_for_debugging(5)
SIGMA = 3.0


def draw(first=0, num=30_000, *, step=1, attempt=1, role="noise", key=KEY, stddev=SIGMA) -> np.ndarray:
    return draw_gaussian(
        key, role=role, attempt=attempt, step=step, first_coordinate=first, num_coordinates=num, stddev=stddev
    ).numpy()


WHOLE = draw()


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 29_999), num=st.integers(0, 30_000))
def test_a_slice_drawn_alone_equals_the_slice_of_the_whole(first, num):
    num = min(num, 30_000 - first)
    assert np.array_equal(draw(first, num), WHOLE[first : first + num])


def test_shards_of_any_number_of_workers_make_the_same_vector():
    for num_workers in (1, 2, 3, 7):
        bounds = [30_000 * r // num_workers for r in range(num_workers + 1)]
        parts = [draw(a, b - a) for a, b in itertools.pairwise(bounds)]
        assert np.array_equal(np.concatenate(parts), WHOLE)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_value(num_threads):
    """Enough windows that all threads take part, and a range that starts and ends inside one."""
    before = torch.get_num_threads()
    whole = draw(num=40 * 8192)
    try:
        torch.set_num_threads(num_threads)
        assert np.array_equal(draw(first=100, num=40 * 8192 - 200), whole[100:-100])
    finally:
        torch.set_num_threads(before)


def test_values_are_box_muller_of_the_keyed_words():
    """Oracle: cosine and sine taken one by one, for both halves of the second window."""
    words = uniform_uint64(KEY, "noise", 1, 1, 8192 * 4, 8192 * 4).reshape(2, 4, 4096)
    for i in (0, 1, 4095):
        cosine = sine = 0.0
        for draw_index in range(4):
            radius_bits, angle_bits = (int(words[k, draw_index, i]) >> 11 for k in (0, 1))
            radius = math.sqrt(-2 * math.log((radius_bits + 1) / 2**53))
            angle = math.pi * (angle_bits - 2**53 * (angle_bits >= 2**52)) / 2**52  # the top bit is a sign
            cosine += radius * math.cos(angle) / 2
            sine += radius * math.sin(angle) / 2
        assert WHOLE[8192 + i] == pytest.approx(SIGMA * cosine, abs=1e-12)
        assert WHOLE[8192 + 4096 + i] == pytest.approx(SIGMA * sine, abs=1e-12)


def test_noise_is_gaussian_with_the_right_scale_and_no_other():
    values = draw(num=200_000)
    assert kstest(values, norm(scale=SIGMA).cdf).pvalue > 1e-3
    for wrong in (0.97, 1.03):
        assert kstest(values, norm(scale=wrong * SIGMA).cdf).pvalue < 1e-6


def test_what_is_released_has_the_right_scale_around_the_sum_and_no_other():
    """After adding and rounding, at sums far from 0 and off the grid."""
    total = np.linspace(-300, 300, 200_000) + 1 / 3
    left = add_noise_on_grid(total, draw(num=200_000), grid_for(1.0)).numpy() - total
    assert kstest(left, norm(scale=SIGMA).cdf).pvalue > 1e-3
    for wrong in (0.97, 1.03):
        assert kstest(left, norm(scale=wrong * SIGMA).cdf).pvalue < 1e-6
        wrong_noise = draw(num=200_000, stddev=wrong * SIGMA)
        left_wrong = add_noise_on_grid(total, wrong_noise, grid_for(1.0)).numpy() - total
        assert kstest(left_wrong, norm(scale=SIGMA).cdf).pvalue < 1e-6


def test_moments_and_tails_are_those_of_a_gaussian():
    z = draw(num=400_000) / SIGMA
    n = z.size
    assert abs(z.mean()) * np.sqrt(n) < 4
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)
    for bound in (2.0, 3.0, 4.0):
        expected = 2 * norm.sf(bound) * n
        assert abs((np.abs(z) > bound).sum() - expected) < 4 * np.sqrt(expected)


def test_noise_is_uncorrelated_across_coordinates_steps_attempts_roles_and_keys():
    same_window = WHOLE[: 3 * 8192].reshape(3, 2, 4096)
    pairs = {
        "neighbours": (WHOLE[:-1], WHOLE[1:]),
        "the two halves of a window": (same_window[:, 0].ravel(), same_window[:, 1].ravel()),
        "windows": (WHOLE[:8192], WHOLE[8192:16384]),
        "steps": (WHOLE, draw(step=2)),
        "attempts": (WHOLE, draw(attempt=2)),
        "roles": (WHOLE, draw(role="histogram")),
        "keys": (WHOLE, draw(key=RunKey.fixed_for_debugging(6))),
    }
    for name, (a, b) in pairs.items():
        for x, y in ((a, b), (a**2, b**2)):
            z = np.corrcoef(x, y)[0, 1] * np.sqrt(x.size)
            assert abs(z) < 4, name


def test_no_value_repeats_across_coordinates_steps_and_attempts():
    values = np.concatenate([draw(step=s, attempt=a) for s in (1, 2, 3) for a in (1, 2)])
    assert np.unique(values).size == values.size


def test_the_variance_of_a_sum_over_steps_adds_up():
    """Equal noise in two steps would give four times the variance, opposite noise none."""
    summed = sum(draw(step=s) for s in range(8))
    assert abs(summed.var() / (8 * SIGMA**2) - 1) < 4 * np.sqrt(2 / summed.size)


def test_values_are_finite_float64_tensors():
    noise = draw_gaussian(KEY, attempt=1, step=1, first_coordinate=0, num_coordinates=10, stddev=1e-3)
    assert noise.dtype == torch.float64
    assert noise.shape == (10,)
    assert torch.isfinite(noise).all()


def test_a_uniform_of_zero_bits_gives_a_finite_value(monkeypatch):
    for byte in (b"\x00", b"\xff"):
        monkeypatch.setattr("rapid_dist.privacy.noise.stream_bytes", lambda *a, num_bytes, b=byte, **k: b * num_bytes)
        assert np.isfinite(draw(num=8192)).all()


@pytest.mark.parametrize("stddev", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_would_not_hide_anything_is_refused(stddev):
    with pytest.raises(SpecError):
        draw(num=1, stddev=stddev)


def test_negative_coordinates_are_refused():
    with pytest.raises(SpecError):
        draw(first=-1, num=1)


@given(max_grad_norm=st.floats(1e-6, 1e6))
def test_the_grid_is_a_power_of_two_just_below_a_millionth_of_the_clip(max_grad_norm):
    grid = grid_for(max_grad_norm)
    assert np.frexp(grid)[0] == 0.5
    assert grid <= max_grad_norm * 2.0**-20 < 2 * grid


@pytest.mark.parametrize("max_grad_norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_that_is_no_positive_number_has_no_grid(max_grad_norm):
    with pytest.raises(SpecError):
        grid_for(max_grad_norm)


def test_the_noisy_sum_lies_on_the_grid_and_next_to_the_exact_one():
    grid = grid_for(0.7)
    total, noise = torch.linspace(-5, 5, 30_000, dtype=torch.float64), torch.from_numpy(WHOLE)
    noisy = add_noise_on_grid(total, noise, grid)
    assert torch.equal((noisy / grid).round(), noisy / grid)
    assert (noisy - (total + noise)).abs().max() <= grid / 2


def test_rounding_happens_after_adding():
    noisy = add_noise_on_grid(np.array([0.4]), np.array([0.4]), 1.0)
    assert noisy.tolist() == [1.0]  # rounding either one first would give 0


def test_inputs_are_left_alone_and_low_precision_sums_are_widened():
    total, noise = torch.ones(4, dtype=torch.float32), torch.full((4,), 0.3, dtype=torch.float64)
    noisy = add_noise_on_grid(total, noise, 2.0**-20)
    assert noisy.dtype == torch.float64
    assert torch.equal(total, torch.ones(4))
    assert torch.equal(noise, torch.full((4,), 0.3, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2.0**52, -(2.0**52)])
def test_a_sum_that_is_not_finite_or_outgrows_the_grid_is_never_released(bad):
    """From 2^52 steps on float64 has no room below a step: the low bits would be those of the sum."""
    for place in ([bad, 0.0], [0.0, bad], [bad]):
        with pytest.raises(PrivacyError):
            add_noise_on_grid(np.array(place), np.zeros(len(place)), 1.0)
    assert add_noise_on_grid(np.array([2.0**52 - 2]), np.ones(1), 1.0).tolist() == [2.0**52 - 1]


@pytest.mark.parametrize("max_grad_norm", [1e-3, 0.7, 1.0, 250.0])
def test_a_billion_records_that_all_push_one_way_stay_on_the_grid(max_grad_norm):
    """The largest sum there can be is clip x records; every multiple of the grid up to it is a float64."""
    grid = grid_for(max_grad_norm)
    total = np.array([max_grad_norm * 1e9, -max_grad_norm * 1e9])
    noisy = add_noise_on_grid(total, np.array([0.3, -0.3]) * max_grad_norm, grid).numpy()
    assert np.array_equal(np.rint(noisy / grid), noisy / grid)
    assert np.abs(noisy - total).max() < max_grad_norm
    assert np.spacing(noisy).max() < grid


def test_the_low_bits_of_the_sum_do_not_survive():
    """Neighbouring sums that share a cell of the grid release the same values: only the cell can be seen."""
    grid, noise = grid_for(1.0), WHOLE[:4096]
    low_bits = np.linspace(0.1, 0.4, 4096) * grid
    on_grid = np.rint(noise / grid) * grid
    assert torch.equal(add_noise_on_grid(low_bits, on_grid, grid), add_noise_on_grid(np.zeros(4096), on_grid, grid))


def test_no_coordinates_have_no_noise():
    assert draw(first=5, num=0).shape == (0,)
    assert add_noise_on_grid(np.zeros(0), np.zeros(0), 1.0).shape == (0,)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(PrivacyError):
        add_noise_on_grid(np.zeros(3), np.zeros(1), 1.0)


@pytest.mark.parametrize("grid", [0.0, 0.3, -1.0, float("nan"), float("inf")])
def test_a_grid_that_is_no_power_of_two_is_refused(grid):
    with pytest.raises(SpecError):
        add_noise_on_grid(np.zeros(1), np.zeros(1), grid)
