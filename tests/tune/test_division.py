"""Dividing public images: every image on one side, by its class and id alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from rapid_dist.errors import SpecError
from rapid_dist.specs.study import ProxySpec
from rapid_dist.storage.tables import ImageTable
from rapid_dist.tune.division import Division, divide, divide_table


def make_table(count: int = 2000, num_labels: int = 6, seed: int = 0) -> ImageTable:
    """Images whose pixels tell their id, with labels from -1, which is none."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10 * count)[:count].astype(np.int64)
    image = np.repeat((ids % 251).astype(np.uint8), 4).reshape(count, 1, 2, 2)
    return ImageTable(example_id=ids, image=image, label=rng.integers(-1, num_labels, count).astype(np.int32))


def take(table: ImageTable, rows) -> ImageTable:
    return ImageTable(example_id=table.example_id[rows], image=table.image[rows], label=table.label[rows])


DIVISIONS = {
    "by class": Division(private_classes=(1, 4, 5), test_fraction=0.3),
    "without labels": Division(private_classes=None, test_fraction=0.3),
}


@pytest.mark.parametrize("name", DIVISIONS)
def test_every_image_is_in_exactly_one_part_as_it_was(name):
    table = make_table()
    parts = divide_table(table, DIVISIONS[name], 7)
    assert set(parts) == {"knowledge", "private", "test"}
    ids = np.concatenate([part.example_id for part in parts.values()])
    assert sorted(ids) == sorted(table.example_id)
    for part in parts.values():
        assert (part.image[:, 0, 0, 0] == part.example_id % 251).all()


@pytest.mark.parametrize("name", DIVISIONS)
def test_an_image_goes_where_its_class_and_id_say_whatever_it_lies_beside(name):
    table = make_table()
    whole = divide_table(table, DIVISIONS[name], 7)
    order = np.random.default_rng(1).permutation(len(table))
    for rows in (order, order[:300]):
        for part, found in divide_table(take(table, rows), DIVISIONS[name], 7).items():
            assert set(found.example_id) == set(whole[part].example_id) & set(table.example_id[rows])


def test_classes_divide_knowledge_from_the_rest_and_the_pretended_ones_count_from_zero():
    table = make_table()
    label_of = dict(zip(table.example_id.tolist(), table.label.tolist(), strict=True))
    parts = divide_table(table, DIVISIONS["by class"], 7)
    for part, classes in (("knowledge", {-1, 0, 2, 3}), ("private", {1, 4, 5}), ("test", {1, 4, 5})):
        before = [label_of[i] for i in parts[part].example_id.tolist()]
        assert set(before) == classes
        expected = before if part == "knowledge" else [(1, 4, 5).index(label) for label in before]
        assert parts[part].label.tolist() == expected
        assert parts[part].label.dtype == np.int32


def test_the_held_out_share_is_as_stated():
    parts = divide_table(make_table(20_000), DIVISIONS["by class"], 7)
    held_out, kept = len(parts["test"]), len(parts["private"])
    assert binomtest(held_out, held_out + kept, 0.3).pvalue > 1e-3
    assert binomtest(held_out, held_out + kept, 0.25).pvalue < 1e-6


def test_without_labels_half_of_the_images_pretend_and_being_held_out_is_independent():
    parts = divide_table(make_table(20_000), DIVISIONS["without labels"], 7)
    sizes = {name: len(part) for name, part in parts.items()}
    assert binomtest(sizes["knowledge"], 20_000, 0.5).pvalue > 1e-3
    assert binomtest(sizes["test"], sizes["test"] + sizes["private"], 0.3).pvalue > 1e-3


def test_another_seed_holds_out_other_images_of_the_same_classes():
    one, other = (divide_table(make_table(), DIVISIONS["by class"], seed) for seed in (1, 2))
    assert set(one["knowledge"].example_id) == set(other["knowledge"].example_id)
    assert set(one["test"].example_id) != set(other["test"].example_id)


@pytest.mark.parametrize(
    ("num_labels", "chosen", "expected", "num_classes"),
    [
        (10, None, (5, 6, 7, 8, 9), 5),
        (5, None, (2, 3, 4), 3),
        (2, None, (1,), 1),
        (10, (7, 2, 2), (2, 7), 2),
        (0, None, None, 0),
        (1, None, None, 0),
    ],
)
def test_by_default_the_upper_half_of_the_classes_pretends(num_labels, chosen, expected, num_classes):
    division = divide(num_labels, ProxySpec(private_classes=chosen, test_fraction=0.4))
    assert (division.private_classes, division.num_classes, division.test_fraction) == (expected, num_classes, 0.4)


@pytest.mark.parametrize(
    ("num_labels", "chosen", "said"),
    [
        (3, (0, 1, 2), "some, but not all, of the public classes 0 to 2"),
        (3, (), "some, but not all"),
        (3, (3,), r"\[3\]; expected some"),
        (3, (-1, 1), r"\[-1, 1\]; expected some"),
        (0, (0,), "the public images have 0 classes; leave it out"),
        (1, (0,), "the public images have 1 classes; leave it out"),
    ],
)
def test_a_division_that_leaves_one_side_without_a_class_is_refused(num_labels, chosen, said):
    with pytest.raises(SpecError, match=said):
        divide(num_labels, ProxySpec(private_classes=chosen))
