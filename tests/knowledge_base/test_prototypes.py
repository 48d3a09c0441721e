import numpy as np
import pytest

from rapid_dist.errors import InputError, SpecError
from rapid_dist.knowledge_base.clusters import assign_prototypes, fit_prototypes


@pytest.fixture
def keys():
    """400 keys around the corners of a square of side 20."""
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0], [0, 20], [20, 0], [20, 20]])
    return (np.repeat(corners, 100, axis=0) + rng.normal(size=(400, 2))).astype("f4")


def test_centroids_are_the_cluster_means_in_lexicographic_order(keys):
    centroids = fit_prototypes(keys, num_prototypes=4, seed=0)
    means = keys.reshape(4, 100, 2).mean(axis=1)
    np.testing.assert_allclose(centroids, means[np.lexsort(means.T[::-1])], atol=0.3)
    assert centroids.dtype == np.float32
    np.testing.assert_array_equal(np.lexsort(centroids.T[::-1]), np.arange(4))


def test_assignment_finds_the_clusters(keys):
    prototypes = assign_prototypes(keys, fit_prototypes(keys, num_prototypes=4, seed=0))
    assert prototypes.dtype == np.int32
    assert all(len(set(cluster)) == 1 for cluster in prototypes.reshape(4, 100).tolist())
    assert len(np.unique(prototypes)) == 4


def test_centroids_depend_on_seed_and_rows_but_not_on_row_order(keys):
    first = fit_prototypes(keys, num_prototypes=7, seed=1)
    shuffled = np.random.default_rng(2).permutation(keys)
    assert fit_prototypes(keys, num_prototypes=7, seed=1).tobytes() == first.tobytes()
    assert fit_prototypes(shuffled, num_prototypes=7, seed=1).tobytes() == first.tobytes()
    assert fit_prototypes(keys, num_prototypes=7, seed=3).tobytes() != first.tobytes()


def test_fewer_distinct_keys_than_prototypes_lower_the_number():
    keys = np.array([[2, 0], [1, 0], [1, 0], [0.0, 1], [-0.0, 1]])
    centroids = fit_prototypes(keys, num_prototypes=10, seed=0)
    assert centroids.tolist() == [[0, 1], [1, 0], [2, 0]]
    assert assign_prototypes(keys, centroids).tolist() == [2, 1, 1, 0, 0]


def test_repeated_keys_weigh_as_often_as_they_occur():
    """The mean is 0.1; counting each distinct key once it would be 0.5. Mini-batches add some scatter."""
    keys = np.array([[0.0]] * 9 + [[1.0]])
    keys = np.concatenate([keys, [[50.0]]])
    centroids = fit_prototypes(keys, num_prototypes=2, seed=0)
    np.testing.assert_allclose(centroids, [[0.1], [50.0]], atol=0.1)


def test_ties_go_to_the_lower_index():
    assert assign_prototypes(np.array([[1.0]]), np.array([[0.0], [2.0]])).tolist() == [0]
    assert assign_prototypes(np.array([[1.0]]), np.array([[2.0], [0.0]])).tolist() == [0]


def test_assignment_of_a_key_does_not_depend_on_the_others(keys):
    centroids = fit_prototypes(keys, num_prototypes=9, seed=0)
    together = assign_prototypes(keys, centroids)
    apart = np.concatenate([assign_prototypes(part, centroids) for part in np.array_split(keys, 17)])
    np.testing.assert_array_equal(together, apart)


def test_bad_arguments_are_refused(keys):
    with pytest.raises(SpecError):
        fit_prototypes(keys, num_prototypes=0, seed=0)
    with pytest.raises(InputError):
        fit_prototypes(keys[:0], num_prototypes=2, seed=0)
    with pytest.raises(InputError):
        fit_prototypes(np.array([[np.nan]]), num_prototypes=1, seed=0)
    with pytest.raises(InputError):
        assign_prototypes(keys, np.empty((0, 2)))
    with pytest.raises(InputError):
        assign_prototypes(keys, np.ones((2, 3)))
