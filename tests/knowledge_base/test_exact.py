import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapid_dist.errors import InputError, SpecError
from rapid_dist.knowledge_base import exact
from rapid_dist.knowledge_base.exact import SPACES, pair_distances, prepare_vectors, search_exact
from rapid_dist.knowledge_base.neighbors import merge_neighbors


def oracle(keys, ids, queries, k, space):
    """Brute force in float64 on the vectors as given: ids and distances, (q, k)."""
    a, b = np.asarray(queries, np.float64)[:, None], np.asarray(keys, np.float64)[None]
    if space == "l2":
        distance = ((a - b) ** 2).sum(-1)
    elif space == "ip":
        distance = 1 - (a * b).sum(-1)
    else:
        distance = 1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    order = np.stack([np.lexsort((ids, row))[:k] for row in distance])
    return ids[order], np.take_along_axis(distance, order, axis=1)


@pytest.mark.parametrize(("space", "offset"), [("l2", 0), ("l2", 1000), ("ip", 0), ("ip", 1000), ("cosine", 0)])
def test_exact_equals_brute_force_in_float64(space, offset):
    """Rounded once to float32; cosine also rounds the unit vectors, so its error is absolute."""
    rng = np.random.default_rng(0)
    keys, queries = ((rng.normal(size=(n, 7)) + offset).astype("f4") for n in (300, 40))
    ids = rng.permutation(1000)[:300]
    found = search_exact(keys, ids, queries, num_neighbors=9, space=space)
    expected_ids, expected_distance = oracle(keys, ids, queries, 9, space)
    np.testing.assert_array_equal(found.trajectory_id, expected_ids)
    np.testing.assert_allclose(found.distance, expected_distance, rtol=6e-8, atol=3e-7 * (space == "cosine"))
    assert found.trajectory_id.dtype == np.int64
    assert found.distance.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    space=st.sampled_from(SPACES),
    seed=st.integers(0, 2**32 - 1),
    num_keys=st.integers(1, 60),
    dim=st.integers(1, 19),
    k=st.integers(1, 12),
    num_shards=st.integers(1, 7),
    num_levels=st.sampled_from([2, 3, 1000]),
)
def test_any_sharding_in_any_order_gives_the_same_bits(space, seed, num_keys, dim, k, num_shards, num_levels):
    """num_levels of coordinates: few make many exact ties, many make generic values."""
    rng = np.random.default_rng(seed)
    keys = (rng.integers(0, num_levels, (num_keys, dim)) / 7).astype("f4")
    queries = (rng.integers(0, num_levels, (5, dim)) / 7).astype("f4")
    ids = rng.permutation(500)[:num_keys]
    whole = search_exact(keys, ids, queries, num_neighbors=k, space=space)

    order, shard_of = rng.permutation(num_keys), rng.integers(0, num_shards, num_keys)
    parts = []
    for s in rng.permutation(num_shards):
        rows = order[shard_of[order] == s]
        parts.append(search_exact(keys[rows], ids[rows], queries, num_neighbors=k, space=space))
    merged = merge_neighbors(parts, k)
    np.testing.assert_array_equal(merged.trajectory_id, whole.trajectory_id)
    assert merged.distance.tobytes() == whole.distance.tobytes()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_block_sizes_change_no_bit(monkeypatch, space, offset):
    """Far from the origin the l2 expansion cancels most digits; the margin must still hold the true nearest."""
    rng = np.random.default_rng(1)
    keys, queries = (rng.normal(size=(n, 33)).astype("f4") + np.float32(offset) for n in (200, 11))
    whole = search_exact(keys, np.arange(200), queries, num_neighbors=5, space=space)
    expected = pair_distances(
        prepare_vectors(queries, space=space, name="queries"),
        prepare_vectors(keys, space=space, name="keys"),
        np.repeat(np.arange(11), 200),
        np.tile(np.arange(200), 11),
        space=space,
    ).reshape(11, 200)
    assert whole.distance.tobytes() == np.sort(expected, axis=1)[:, :5].tobytes()
    for keys_per_block, queries_per_block, floats in [(7, 2, 1), (1, 11, 100), (64, 1, 1 << 20)]:
        monkeypatch.setattr(exact, "_KEYS_PER_BLOCK", keys_per_block)
        monkeypatch.setattr(exact, "_QUERIES_PER_BLOCK", queries_per_block)
        monkeypatch.setattr(exact, "_FLOATS_PER_BLOCK", floats)
        blocked = search_exact(keys, np.arange(200), queries, num_neighbors=5, space=space)
        np.testing.assert_array_equal(blocked.trajectory_id, whole.trajectory_id)
        assert blocked.distance.tobytes() == whole.distance.tobytes()


def test_unit_vectors_do_not_depend_on_the_blocks_they_are_made_in(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(50, 33)).astype("f4")
    whole = prepare_vectors(vectors, space="cosine", name="keys")
    monkeypatch.setattr(exact, "_KEYS_PER_BLOCK", 7)
    assert prepare_vectors(vectors, space="cosine", name="keys").tobytes() == whole.tobytes()
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 9, 127, 128, 129, 300])
@pytest.mark.parametrize("space", SPACES)
def test_pair_distance_bits_depend_on_the_pair_only(space, dim):
    rng = np.random.default_rng(dim)
    keys = prepare_vectors(np.asfortranarray(rng.normal(size=(50, dim))), space=space, name="keys")
    query, key = rng.integers(0, 50, 400), rng.integers(0, 50, 400)
    together = pair_distances(keys, keys, query, key, space=space)
    alone = [pair_distances(keys[[i]], keys[[j]], [0], [0], space=space)[0] for i, j in zip(query, key, strict=True)]
    assert together.tobytes() == np.array(alone).tobytes()


def test_normalised_bits_depend_on_the_row_only():
    rows = np.random.default_rng(5).normal(size=(40, 31))
    together = prepare_vectors(np.asfortranarray(rows), space="cosine", name="keys")
    alone = np.concatenate([prepare_vectors(row[None], space="cosine", name="keys") for row in rows])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("space", SPACES)
def test_ties_go_to_the_smaller_id(space):
    keys, ids = np.ones((6, 3), "f4"), np.array([50, 3, 40, 1, 30, 2])
    found = search_exact(keys, ids, np.ones((1, 3)), num_neighbors=4, space=space)
    assert found.trajectory_id.tolist() == [[1, 2, 3, 30]]


def test_ties_after_rounding_to_float32_go_to_the_smaller_id():
    """The larger id is nearer by less than a float32 spacing, which a merge could not see."""
    keys = np.array([[1.0, 0.0], [1.0, 1e-6]], "f4")
    for rows in ([0, 1], [1, 0]):
        found = search_exact(keys[rows], np.array([9, 4])[rows], np.zeros((1, 2)), num_neighbors=1, space="l2")
        assert found.trajectory_id.tolist() == [[4]]


@pytest.mark.parametrize("num_keys", [0, 2])
def test_missing_neighbours_are_padding(num_keys):
    found = search_exact(np.eye(3)[:num_keys], np.arange(num_keys), np.eye(3)[:1], num_neighbors=4, space="l2")
    assert found.trajectory_id[0].tolist() == [0, 1][:num_keys] + [-1] * (4 - num_keys)
    assert found.distance[0].tolist() == [0.0, 2.0][:num_keys] + [np.inf] * (4 - num_keys)


def test_a_zero_vector_has_cosine_distance_one():
    found = search_exact(np.zeros((1, 3)), np.array([0]), np.ones((1, 3)), num_neighbors=1, space="cosine")
    assert found.distance.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"space": "l1"}, SpecError),
        ({"num_neighbors": 0}, SpecError),
        ({"queries": np.ones((2, 4))}, InputError),
        ({"queries": np.full((2, 3), np.nan)}, InputError),
        ({"keys": np.ones(3)}, InputError),
        ({"trajectory_ids": np.array([0, -1, 2])}, InputError),
        ({"trajectory_ids": np.arange(2)}, InputError),
        ({"trajectory_ids": np.ones(3)}, InputError),
    ],
)
def test_bad_arguments_are_refused(change, error):
    good = {
        "keys": np.ones((3, 3)),
        "trajectory_ids": np.arange(3),
        "queries": np.ones((2, 3)),
        "num_neighbors": 2,
        "space": "l2",
    }
    search_exact(**good)
    with pytest.raises(error):
        search_exact(**(good | change))
