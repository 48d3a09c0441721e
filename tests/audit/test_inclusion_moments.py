"""Poisson sampling passes, and what is not Poisson fails the check that names it."""

from __future__ import annotations

import numpy as np
import pytest

from rapid_dist.audit.checks import violations
from rapid_dist.audit.moments import inclusion_checks
from rapid_dist.errors import SpecError

STEPS, RECORDS, RATE = 300, 600, 0.1


def poisson(seed: int = 0, rate: float = RATE, records: int = RECORDS) -> np.ndarray:
    return np.random.default_rng(seed).random((STEPS, records)) < rate


def failed(included: np.ndarray, rate: float = RATE) -> str:
    return "\n".join(check.words for check in violations(inclusion_checks(included, sample_rate=rate)))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_poisson_sampling_passes(seed, rate):
    assert failed(poisson(seed, rate), rate) == ""


def shuffled() -> np.ndarray:
    """Epochs of ten batches that share out a fresh permutation."""
    rng, included = np.random.default_rng(0), np.zeros((STEPS, RECORDS), dtype=bool)
    for epoch in range(STEPS // 10):
        for i, batch in enumerate(rng.permutation(RECORDS).reshape(10, -1)):
            included[10 * epoch + i, batch] = True
    return included


def fixed_size() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([rng.permutation(RECORDS) < RATE * RECORDS for _ in range(STEPS)])


def same_seed_on_two_workers() -> np.ndarray:
    half = poisson(records=RECORDS // 2)
    return np.concatenate([half, half], axis=1)


def one_record_in_all() -> np.ndarray:
    included = poisson()
    included[:, 5] = True
    return included


def one_record_in_none() -> np.ndarray:
    included = poisson()
    included[:, 5] = False
    return included


def steps_again() -> np.ndarray:
    included = poisson()
    included[200:250] = included[100:150]
    return included


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: poisson(rate=2 * RATE), "share of records included"),
        (lambda: poisson(rate=RATE / 2), "share of records included"),
        (shuffled, "variance of the batch size"),
        (shuffled, "memory from one step to the next"),
        (fixed_size, "variance of the batch size"),
        (same_seed_on_two_workers, "most steps that two records share"),
        (one_record_in_all, "most frequent record"),
        (one_record_in_none, "rarest record"),
        (steps_again, "most records that two steps share"),
    ],
)
def test_other_sampling_is_named(make, words):
    assert words in failed(make())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_that_leaves_nothing_to_chance_cannot_be_judged(rate):
    with pytest.raises(SpecError):
        inclusion_checks(poisson(), sample_rate=rate)
