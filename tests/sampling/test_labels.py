import numpy as np
import pytest

from rapid_dist.errors import InputError
from rapid_dist.sampling.draw import draw_labels, indices, label_numbers, sample_labels


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


@pytest.mark.parametrize("proportions", [None, (0.5, 0.25, 0.25), (0.0, 1.0, 0.0), (0.1, 0.9, 0.0)])
def test_labels_by_index_follow_the_proportions_and_wrong_ones_are_noticed(proportions):
    shares = np.array(proportions or (1 / 3, 1 / 3, 1 / 3))
    counts = np.bincount(draw_labels(np.arange(20_000), 3, proportions, seed=0), minlength=3)
    spread = np.sqrt(20_000 * shares * (1 - shares))
    assert (np.abs(counts - 20_000 * shares) <= 4 * spread).all()
    wrong = shares[::-1] if not np.array_equal(shares, shares[::-1]) else np.array([0.3, 0.4, 0.3])
    assert (np.abs(counts - 20_000 * wrong) > 4 * spread).any()


def test_a_label_by_index_does_not_depend_on_how_many_are_drawn():
    many = draw_labels(np.arange(50), 4, None, seed=3)
    assert many.dtype == np.int64
    assert np.array_equal(draw_labels(np.arange(20, 30), 4, None, seed=3), many[20:30])
    assert not np.array_equal(draw_labels(np.arange(50), 4, None, seed=4), many)
    assert draw_labels(np.arange(2), 0, None, seed=3).tolist() == [-1, -1]


NAMES = ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [("bee", [1, 1]), (2, [2, 2]), (np.int64(2), [2, 2]), (["cat", 0], [2, 0]), (np.array([1, 2]), [1, 2])],
)
def test_classes_are_asked_for_by_number_or_name(labels, expected):
    assert label_numbers(labels, 2, num_classes=3, class_names=NAMES).tolist() == expected


@pytest.mark.parametrize(
    ("labels", "classes", "names", "words"),
    [
        (["ant"], 3, NAMES, "got 1 labels for 2 samples"),
        ("dog", 3, NAMES, "no class 'dog'; expected 0 to 2, or one of ant, bee, cat"),
        ("ant", 3, None, r"no class 'ant'; expected 0 to 2; data\.class_names gives no names"),
        (3, 3, NAMES, "no class 3"),
        (-1, 3, NAMES, "no class -1"),
        ([True, 0], 3, NAMES, "no class True"),
        ([1.0, 0], 3, NAMES, r"no class 1\.0"),
        (0, 0, None, "the run has no classes"),
    ],
)
def test_classes_that_there_are_not_are_refused(labels, classes, names, words):
    with pytest.raises(InputError, match=words):
        label_numbers(labels, 2, num_classes=classes, class_names=names)


@pytest.mark.parametrize(("first", "count"), [(0, 0), (-1, 2), (0, 1.5), (True, 2), (0, "2")])
def test_a_number_of_samples_is_whole_and_above_zero(first, count):
    with pytest.raises(InputError, match="expected a whole number of at least"):
        indices(first, count)
