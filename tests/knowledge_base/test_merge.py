import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapid_dist.errors import InputError, SpecError
from rapid_dist.knowledge_base.neighbors import (
    Neighbors,
    first_neighbors,
    merge_neighbors,
    no_neighbors,
    recall_at,
    select_neighbors,
)


def neighbors(*rows):
    """Neighbors of one query from (trajectory_id, distance) pairs."""
    ids, distances = zip(*rows, strict=True) if rows else ((), ())
    return Neighbors(np.array([ids], np.int64).reshape(1, -1), np.array([distances], "f4").reshape(1, -1))


def as_pairs(found):
    return list(zip(found.trajectory_id[0].tolist(), found.distance[0].tolist(), strict=True))


def same(a, b):
    return np.array_equal(a.trajectory_id, b.trajectory_id) and a.distance.tobytes() == b.distance.tobytes()


# Few ids and few distances: ties, the same id in two parts, and one id at two distances.
parts = st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.5, 1.0, 2.0])), max_size=6).map(
    lambda rows: neighbors(*rows)
)


@settings(max_examples=100, deadline=None)
@given(a=parts, b=parts, c=parts, k=st.integers(1, 5))
def test_merge_is_associative_and_commutative(a, b, c, k):
    together = merge_neighbors([a, b, c], k)
    assert same(merge_neighbors([c, a, b], k), together)
    assert same(merge_neighbors([merge_neighbors([a, b], k), c], k), together)
    assert same(merge_neighbors([a, merge_neighbors([b, c], k)], k), together)


@settings(max_examples=50, deadline=None)
@given(a=parts, b=parts, k=st.integers(1, 8))
def test_merge_equals_sorting_a_dictionary(a, b, k):
    nearest = {}
    for trajectory_id, distance in as_pairs(a) + as_pairs(b):
        nearest[trajectory_id] = min(distance, nearest.get(trajectory_id, np.inf))
    expected = sorted(nearest.items(), key=lambda pair: (pair[1], pair[0]))[:k]
    assert as_pairs(merge_neighbors([a, b], k)) == expected + [(-1, np.inf)] * (k - len(expected))


def test_merge_keeps_queries_apart_and_drops_padding():
    a = Neighbors([[5, -1], [6, 7]], [[2.0, np.inf], [1.0, 3.0]])
    b = Neighbors([[4, 5], [-1, -1]], [[2.0, 2.0], [np.inf, np.inf]])
    merged = merge_neighbors([a, b], 3)
    assert merged.trajectory_id.tolist() == [[4, 5, -1], [6, 7, -1]]
    assert merged.distance.tolist() == [[2.0, 2.0, np.inf], [1.0, 3.0, np.inf]]


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 5),
    width=st.integers(0, 7),
    k=st.integers(1, 9),
    num_ids=st.integers(1, 12),
    num_distances=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_first_neighbors_are_those_of_select_neighbors(rows, width, k, num_ids, num_distances, seed):
    """Few ids and distances make padding, infinities, equal distances and repeats in every place."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(-2, num_ids, (rows, width))
    distance = np.float32([*range(num_distances), np.inf])[rng.integers(0, num_distances + 1, (rows, width))]
    if rng.random() < 0.5:
        distance = np.sort(distance, axis=1)
    expected = select_neighbors(
        np.repeat(np.arange(rows), width), ids.ravel(), distance.ravel(), num_queries=rows, num_neighbors=k
    )
    assert same(first_neighbors(ids, distance, k), expected)


def test_first_neighbors_change_nothing_they_are_given():
    ids, distance = np.array([[3, -1, 2, 3]]), np.float32([[2, 0, 1, 2]])
    found = first_neighbors(ids, distance, 4)
    assert (found.trajectory_id.tolist(), found.distance.tolist()) == ([[2, 3, -1, -1]], [[1, 2, np.inf, np.inf]])
    assert (ids.tolist(), distance.tolist()) == ([[3, -1, 2, 3]], [[2, 0, 1, 2]])


def test_merge_of_no_queries_has_the_asked_width():
    assert merge_neighbors([no_neighbors(0, 2)], 3).trajectory_id.shape == (0, 3)


def test_merge_refuses_parts_of_other_queries_and_no_parts():
    with pytest.raises(InputError, match="same queries"):
        merge_neighbors([no_neighbors(1, 2), no_neighbors(2, 2)], 2)
    with pytest.raises(InputError):
        merge_neighbors([], 2)
    with pytest.raises(SpecError):
        merge_neighbors([no_neighbors(1, 2)], 0)


def test_neighbors_refuse_unequal_shapes():
    with pytest.raises(InputError):
        Neighbors(np.zeros((1, 2)), np.zeros((1, 3)))


def test_recall_is_the_share_of_true_ids_found():
    truth = Neighbors([[1, 2, 3], [4, -1, -1]], np.zeros((2, 3)))
    found = Neighbors([[2, 9, 1], [4, 8, 7]], np.zeros((2, 3)))
    assert recall_at(truth, truth, 3) == 1.0
    assert recall_at(found, truth, 3) == 3 / 4
    assert recall_at(found, truth, 1) == 1 / 2
    assert recall_at(no_neighbors(2, 3), truth, 3) == 0.0
    assert recall_at(found, no_neighbors(2, 3), 3) == 1.0


def test_recall_refuses_a_narrow_truth():
    with pytest.raises(InputError):
        recall_at(no_neighbors(1, 5), no_neighbors(1, 2), 3)
    with pytest.raises(SpecError):
        recall_at(no_neighbors(1, 5), no_neighbors(1, 2), 0)
