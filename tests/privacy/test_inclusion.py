import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from rapid_dist.errors import InputError, PrivacyError, SpecError
from rapid_dist.privacy.inclusion import _threshold, draw_inclusion
from rapid_dist.privacy.keyed import RunKey, uniform_uint64

KEY = RunKey.fixed_for_debugging(11)
RATE = 0.05
NUM_RECORDS, NUM_STEPS = 2000, 600


def draw(ids, *, step=1, attempt=1, rate=RATE, key=KEY):
    return draw_inclusion(key, attempt=attempt, step=step, example_ids=np.asarray(ids, np.int64), sample_rate=rate)


def draw_table(*, rate=RATE, attempt=1) -> np.ndarray:
    """(steps, records) bool."""
    ids = np.arange(NUM_RECORDS)
    return np.stack([draw(ids, step=t, attempt=attempt, rate=rate) for t in range(NUM_STEPS)])


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return draw_table()


def rate_z(table: np.ndarray) -> float:
    """How many standard deviations the number of inclusions is from RATE."""
    return (table.mean() - RATE) / np.sqrt(RATE * (1 - RATE) / table.size)


def variance_z(sizes: np.ndarray, variance: float) -> float:
    """The same for the sample variance of about normal batch sizes."""
    return (sizes.var(ddof=1) / variance - 1) / np.sqrt(2 / (sizes.size - 1))


def test_each_record_is_the_word_at_its_id():
    ids = np.array([5, 0, 2**16 - 1, 2**16, 10**12, 2**62])
    words = [int(uniform_uint64(KEY, "inclusion", 3, 9, int(i), 1)[0]) for i in ids]
    for rate in (0.1, 0.5, 0.9):
        assert draw(ids, attempt=3, step=9, rate=rate).tolist() == [w < int(rate * 2**64) for w in words]


@settings(max_examples=60)
@given(
    ids=st.lists(st.integers(0, 300_000) | st.integers(0, 2**63 - 1), unique=True, max_size=60),
    seed=st.integers(0, 100),
    num_workers=st.integers(1, 5),
)
def test_inclusion_is_the_same_in_any_order_and_on_any_worker(ids, seed, num_workers):
    ids = np.array(ids, dtype=np.int64)
    alone = np.array([draw([i], rate=0.4)[0] for i in ids[:10]], dtype=bool)
    together = draw(ids, rate=0.4)
    assert np.array_equal(together[:10], alone)
    order = np.random.default_rng(seed).permutation(ids.size)
    assert np.array_equal(draw(ids[order], rate=0.4), together[order])
    for worker in range(num_workers):
        assert np.array_equal(draw(ids[worker::num_workers], rate=0.4), together[worker::num_workers])


def test_records_are_included_at_the_sample_rate(table):
    assert abs(rate_z(table)) < 4


@pytest.mark.parametrize("wrong", [2 * RATE, 1.03 * RATE, 0.97 * RATE])
def test_a_wrong_rate_fails_the_rate_test(wrong):
    assert abs(rate_z(draw_table(rate=wrong))) > 4


def test_every_record_and_every_step_has_the_rate(table):
    for axis, n in ((0, NUM_STEPS), (1, NUM_RECORDS)):
        z = (table.mean(axis=axis) - RATE) / np.sqrt(RATE * (1 - RATE) / n)
        assert np.abs(z).max() < 5.5
        assert abs(z.std() - 1) < 0.15


def test_batch_sizes_vary_as_poisson_sampling_does(table):
    variance = NUM_RECORDS * RATE * (1 - RATE)
    assert abs(variance_z(table.sum(axis=1), variance)) < 4


def test_equal_answers_on_two_workers_fail_the_variance_test(table):
    """The same-seed bug: workers that draw by position include the same slots together."""
    half = table[:, : NUM_RECORDS // 2].sum(axis=1)
    assert variance_z(2 * half, NUM_RECORDS * RATE * (1 - RATE)) > 4


def test_shuffled_fixed_size_batches_fail_the_variance_test():
    fixed = np.full(NUM_STEPS, int(NUM_RECORDS * RATE))
    assert variance_z(fixed, NUM_RECORDS * RATE * (1 - RATE)) < -4


def correlations(a: np.ndarray) -> np.ndarray:
    """All correlations between different rows of a, as z-scores."""
    c = np.corrcoef(a)
    return c[np.triu_indices_from(c, k=1)] * np.sqrt(a.shape[1])


def test_records_and_steps_are_pairwise_uncorrelated(table):
    for rows in (table.T[:150], table[:150]):
        z = correlations(rows.astype(float))
        assert np.abs(z).max() < norm.isf(1e-4 / z.size) + 1.5  # inclusion at 5% has heavier tails than a normal
        assert abs(z.mean()) < 4 / np.sqrt(z.size)
        assert abs(z.std() - 1) < 0.05


def test_attempts_and_keys_are_independent(table):
    for other in (draw_table(attempt=2), draw_table_of(RunKey.fixed_for_debugging(12))):
        assert abs(rate_z(other)) < 4
        z = np.corrcoef(table.ravel(), other.ravel())[0, 1] * np.sqrt(table.size)
        assert abs(z) < 4


def draw_table_of(key: RunKey) -> np.ndarray:
    ids = np.arange(NUM_RECORDS)
    return np.stack([draw(ids, step=t, key=key) for t in range(NUM_STEPS)])


def test_the_threshold_is_exact_where_floats_would_round():
    assert _threshold(1.0) == 2**64
    assert _threshold(0.5) == 2**63
    assert _threshold(2.0**-64) == 1
    assert _threshold(2.0**-70) == 0
    numerator, denominator = (0.1).as_integer_ratio()
    assert _threshold(0.1) == numerator * 2**64 // denominator


def test_rate_one_includes_everyone():
    assert draw(np.arange(1000), rate=1.0).all()
    assert draw(np.arange(1000), rate=1).all()


def test_no_records_are_fine():
    answer = draw([])
    assert answer.dtype == bool
    assert answer.shape == (0,)


@pytest.mark.parametrize("rate", [0, -0.1, 1.1, float("nan"), True, "0.1"])
def test_rates_outside_their_range_are_refused(rate):
    with pytest.raises(SpecError):
        draw([1], rate=rate)


def test_a_record_that_appears_twice_is_refused():
    with pytest.raises(PrivacyError):
        draw([4, 1, 4])


@pytest.mark.parametrize("ids", [np.array([-1]), np.array([1.0]), np.array([[1]]), np.array([1], np.int32)])
def test_ids_of_the_wrong_kind_are_refused(ids):
    with pytest.raises(InputError):
        draw_inclusion(KEY, attempt=1, step=1, example_ids=ids, sample_rate=RATE)
