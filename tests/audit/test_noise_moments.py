"""Right noise passes, and each kind of wrong noise fails the check that names it."""

from __future__ import annotations

import numpy as np
import pytest

from rapid_dist.audit.checks import violations
from rapid_dist.audit.moments import noise_checks, repeated_stretches
from rapid_dist.errors import SpecError

SHAPE = (300, 1200)


def draw(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE)


def failed(noise: np.ndarray) -> str:
    return "\n".join(check.words for check in violations(noise_checks(noise, where="here")))


@pytest.mark.parametrize("seed", range(8))
def test_right_noise_passes(seed):
    assert failed(draw(seed)) == ""


def same_stream_on_two_workers() -> np.ndarray:
    half = draw()[:, : SHAPE[1] // 2]
    return np.concatenate([half, half], axis=1)


def one_worker_without_noise() -> np.ndarray:
    noise = draw()
    noise[:, SHAPE[1] // 2 :] = 0
    return noise


def last_step_again() -> np.ndarray:
    noise = draw()
    noise[-1] = noise[7]
    return noise


def two_coordinates_alike() -> np.ndarray:
    noise = draw()
    noise[:, 9] = 0.7 * noise[:, 1100] + np.sqrt(1 - 0.7**2) * noise[:, 9]
    return noise


def one_quiet_step() -> np.ndarray:
    noise = draw()
    noise[11] *= 0.7
    return noise


def shifted() -> np.ndarray:
    return draw() + 0.02


def uniform() -> np.ndarray:
    return np.random.default_rng(0).uniform(-np.sqrt(3), np.sqrt(3), SHAPE)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: 0.97 * draw(), "standard deviation over the planned one"),
        (lambda: 1.03 * draw(), "KS p-value at the planned scale"),
        (lambda: draw() / np.sqrt(2), "least standard deviation of any coordinate"),
        (shifted, "mean over the planned"),
        (uniform, "KS p-value at the planned scale"),
        (same_stream_on_two_workers, "correlation with a shift"),
        (same_stream_on_two_workers, "stretches of noise that occur twice"),
        (one_worker_without_noise, "least standard deviation of any coordinate"),
        (last_step_again, "correlation of two steps or attempts"),
        (two_coordinates_alike, "correlation of two coordinates"),
        (one_quiet_step, "least standard deviation of any step"),
        (lambda: np.where(draw() > 3, np.nan, draw()), "standard deviation over the planned one"),
    ],
)
def test_wrong_noise_is_named(make, words):
    assert words in failed(make())


def test_too_few_values_to_tell_3_percent_are_a_violation_themselves():
    assert "0.97 of the scale" in failed(draw()[:20, :50])


def test_a_stretch_is_found_wherever_it_lies():
    noise = draw()
    assert repeated_stretches(noise) == 0
    noise[3, 100:104] = noise[200, 1000:1004]
    assert repeated_stretches(noise) == 1


def test_noise_of_one_step_cannot_be_judged():
    with pytest.raises(SpecError, match="at least 8 rows"):
        noise_checks(draw()[:1], where="here")
