import pytest
from scipy.stats import binomtest

from rapid_dist.evaluation.classifier import wilson_interval


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (1, 1), (0, 50), (50, 50), (37, 100), (9936, 10_000)])
def test_wilson_interval_equals_scipy(hits, trials):
    oracle = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson_interval(hits, trials) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_half_successes_lie_between_whole_ones():
    low, high = wilson_interval(4.5, 10)
    assert wilson_interval(4, 10)[0] < low < wilson_interval(5, 10)[0]
    assert wilson_interval(4, 10)[1] < high < wilson_interval(5, 10)[1]


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(hits, trials):
    with pytest.raises(ValueError, match="expected"):
        wilson_interval(hits, trials)
