import numpy as np
import pytest

from rapid_dist.sampling.draw import sample_labels


@pytest.mark.parametrize("num_samples", [1, 7, 100, 1001])
@pytest.mark.parametrize("num_classes", [1, 3, 10])
def test_classes_are_as_even_as_whole_numbers_allow(num_samples, num_classes):
    labels = sample_labels(num_samples, num_classes, None, seed=0)
    counts = np.bincount(labels, minlength=num_classes)
    assert labels.dtype == np.int64
    assert len(counts) == num_classes
    assert counts.sum() == num_samples
    assert np.abs(counts - num_samples / num_classes).max() <= 1


@pytest.mark.parametrize("proportions", [(0.5, 0.25, 0.25), (0.0, 1.0, 0.0), (0.1, 0.2, 0.7), (1.0, 0.0, 0.0)])
@pytest.mark.parametrize("num_samples", [10, 999])
def test_counts_follow_the_stated_proportions(proportions, num_samples):
    counts = np.bincount(sample_labels(num_samples, 3, proportions, seed=0), minlength=3)
    assert np.abs(counts - np.array(proportions) * num_samples).max() <= 1
    assert (counts[np.array(proportions) == 0] == 0).all()


def test_unconditional_samples_have_no_class():
    assert sample_labels(4, 0, None, seed=0).tolist() == [-1] * 4


def test_the_order_is_a_function_of_the_seed_alone():
    first, same, other = (sample_labels(200, 4, None, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, np.sort(first))
