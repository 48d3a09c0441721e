import hnswlib
import numpy as np
import pytest

from rapid_dist.errors import ArtifactError, InputError, SpecError, StorageError
from rapid_dist.knowledge_base.exact import SPACES, pair_distances, prepare_vectors, search_exact
from rapid_dist.knowledge_base.index import HnswShard, build_shard
from rapid_dist.knowledge_base.neighbors import recall_at

SETTINGS = {"M": 16, "ef_construction": 100, "seed": 7}
EIGHT = {"keys": np.eye(8, dtype="f4"), "trajectory_ids": np.arange(8)}


@pytest.fixture(scope="module")
def clustered():
    """2,000 keys of 16 dimensions in 20 clusters, ids out of order, and 100 queries."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(20, 16))
    keys, queries = (centres[rng.integers(0, 20, n)] + rng.normal(size=(n, 16)) for n in (2000, 100))
    return keys.astype("f4"), rng.permutation(5000)[:2000], queries.astype("f4")


def sorted_rows(keys, ids):
    order = np.argsort(ids)
    return {"keys": keys[order], "trajectory_ids": ids[order]}


def same(a, b):
    return np.array_equal(a.trajectory_id, b.trajectory_id) and a.distance.tobytes() == b.distance.tobytes()


@pytest.mark.parametrize("space", SPACES)
def test_recall_and_distances_agree_with_exact_search(clustered, space):
    keys, ids, queries = clustered
    if space == "ip":  # Over keys of unequal length a graph by inner product is not navigable.
        keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    found = build_shard(keys, ids, space=space, **SETTINGS).query(queries, 10)
    truth = search_exact(keys, ids, queries, num_neighbors=10, space=space)
    assert recall_at(found, truth, 10) >= 0.99
    complete = (found.trajectory_id == truth.trajectory_id).all(axis=1)
    assert complete.mean() > 0.8
    assert found.distance[complete].tobytes() == truth.distance[complete].tobytes()


@pytest.mark.parametrize("space", SPACES)
def test_distances_are_those_of_hnswlib(clustered, space):
    keys, ids, queries = (part[:200] for part in clustered)
    index = hnswlib.Index(space=space, dim=16)
    index.init_index(max_elements=200, M=16, ef_construction=200, random_seed=1)
    index.add_items(keys, ids, num_threads=1)
    index.set_ef(200)
    labels, distances = index.knn_query(queries, k=5, num_threads=1)
    exact = search_exact(keys, ids, queries, num_neighbors=5, space=space)
    found = build_shard(keys, ids, space=space, **SETTINGS).query(queries, 5)
    for result in (exact, found):
        np.testing.assert_array_equal(result.trajectory_id, labels.astype(np.int64))
        np.testing.assert_allclose(result.distance, distances, rtol=1e-5, atol=1e-5)


def test_one_thread_builds_the_same_bytes_whatever_the_row_order(clustered):
    keys, ids, _ = (part[:500] for part in clustered)
    order = np.random.default_rng(3).permutation(500)
    first = build_shard(keys, ids, space="l2", **SETTINGS).to_bytes()
    assert build_shard(keys, ids, space="l2", **SETTINGS).to_bytes() == first
    assert build_shard(keys[order], ids[order], space="l2", **SETTINGS).to_bytes() == first
    assert build_shard(keys, ids, space="l2", **(SETTINGS | {"seed": 8})).to_bytes() != first


@pytest.mark.parametrize("space", SPACES)
def test_bytes_keep_answers_and_bytes(clustered, space):
    keys, ids, queries = (part[:300] for part in clustered)
    shard = build_shard(keys, ids, space=space, **SETTINGS)
    opened = HnswShard.from_bytes(shard.to_bytes(), **sorted_rows(keys, ids), space=space, ef_search=100)
    assert opened.ef_search == 100
    assert opened.to_bytes() == shard.to_bytes()
    assert same(opened.query(queries, 5), shard.query(queries, 5))
    assert (len(opened), opened.dim, opened.space) == (300, 16, space)
    np.testing.assert_array_equal(opened.trajectory_ids, np.sort(ids))


def test_ef_search_given_on_opening_is_used(clustered):
    keys, ids, queries = clustered
    data = build_shard(keys, ids, space="l2", M=4, ef_construction=20, seed=0).to_bytes()
    truth = search_exact(keys, ids, queries, num_neighbors=1, space="l2")
    rows = sorted_rows(keys, ids)
    recall = {
        ef: recall_at(HnswShard.from_bytes(data, **rows, space="l2", ef_search=ef).query(queries, 1), truth, 1)
        for ef in (1, 500)
    }
    assert recall[500] > recall[1]


def test_query_threads_change_nothing(clustered):
    keys, ids, queries = (part[:300] for part in clustered)
    shard = build_shard(keys, ids, space="l2", **SETTINGS)
    assert same(shard.query(queries, 5, num_threads=2), shard.query(queries, 5))


def test_damaged_bytes_are_refused():
    data = build_shard(np.eye(8), np.arange(8), space="l2", **SETTINGS).to_bytes()
    flipped = bytearray(data)
    flipped[-5] ^= 1
    for damaged in (b"", data[:10], data[:40], data[:-1], data + b"\0", bytes(flipped), b"x" * len(data)):
        with pytest.raises(ArtifactError, match="not a whole index shard"):
            HnswShard.from_bytes(damaged, **EIGHT, space="l2", ef_search=10)


@pytest.mark.parametrize("change", [{"keys": np.eye(8, 7)}, {"space": "ip"}])
def test_another_dim_or_space_is_refused(change):
    data = build_shard(np.eye(8), np.arange(8), space="cosine", **SETTINGS).to_bytes()
    with pytest.raises(ArtifactError, match="expected"):
        HnswShard.from_bytes(data, **({**EIGHT, "space": "cosine", "ef_search": 10} | change))


@pytest.mark.parametrize("ids", [np.arange(1, 9), np.arange(7), np.arange(8)[::-1]])
def test_rows_of_other_ids_or_not_by_ascending_id_are_refused(ids):
    data = build_shard(np.eye(8), np.arange(8), space="l2", **SETTINGS).to_bytes()
    with pytest.raises(ArtifactError, match="differ in ids"):
        HnswShard.from_bytes(data, keys=np.eye(len(ids), 8), trajectory_ids=ids, space="l2", ef_search=10)


def test_more_neighbours_than_keys_gives_padding():
    found = build_shard(np.eye(3), np.array([4, 5, 6]), space="l2", **SETTINGS).query(np.eye(3)[:1], 5)
    assert found.trajectory_id.tolist() == [[4, 5, 6, -1, -1]]
    assert found.distance.tolist() == [[0.0, 2.0, 2.0, np.inf, np.inf]]


def test_ties_go_to_the_smaller_id():
    ids = np.array([9, 1, 8, 2, 7, 3])
    found = build_shard(np.ones((6, 4)), ids, space="cosine", **SETTINGS).query(np.ones((2, 4)), 3)
    assert found.trajectory_id.tolist() == [[1, 2, 3]] * 2


@pytest.mark.parametrize("space", SPACES)
def test_a_graph_of_copies_that_hnswlib_cannot_walk_is_searched_exactly(space):
    keys = np.ones((1000, 4), "f4")
    keys[:5] = np.random.default_rng(0).normal(size=(5, 4))
    shard = build_shard(keys, np.arange(1000), space=space, M=4, ef_construction=10, seed=1)
    with pytest.raises(RuntimeError, match="Cannot return"):
        shard._index.knn_query(keys[:3], k=1000, num_threads=1)
    truth = search_exact(keys, np.arange(1000), keys[:3], num_neighbors=1000, space=space)
    assert same(shard.query(keys[:3], 1000), truth)


@pytest.mark.parametrize("space", SPACES)
def test_keys_closer_than_the_rounding_of_hnswlib_are_ordered_exactly(space):
    """Five copies of each key, moved by a few float32 steps: hnswlib cannot tell them apart, exact search can."""
    rng = np.random.default_rng(3)
    keys = np.repeat(rng.normal(size=(60, 48)), 5, axis=0).astype("f4")
    keys[:, 0] *= 1 + np.tile(np.arange(5), 60).astype("f4") * np.float32(2e-7)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    ids = rng.permutation(300)
    queries = (keys[::7] + np.float32(0.05) * rng.normal(size=keys[::7].shape)).astype("f4")
    shard = build_shard(keys, ids, space=space, M=32, ef_construction=300, seed=0)
    truth = search_exact(keys, ids, queries, num_neighbors=7, space=space)
    assert same(shard.query(queries, 7), truth)
    raw, _ = shard._index.knn_query(prepare_vectors(queries, space=space, name="queries"), k=7)
    assert not np.array_equal(raw.astype(np.int64), truth.trajectory_id)


@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_few_distances_are_computed_again_where_they_cannot_decide(clustered, space, monkeypatch):
    keys, ids, queries = clustered
    counts = []

    def counted(queries, keys, query, key, *, space):
        counts.append(len(query))
        return pair_distances(queries, keys, query, key, space=space)

    shard = build_shard(keys, ids, space=space, **SETTINGS)
    monkeypatch.setattr("rapid_dist.knowledge_base.index.pair_distances", counted)
    shard.query(queries, 10)
    assert 10 * len(queries) <= counts[0] < 10.5 * len(queries)


@pytest.mark.parametrize("space", SPACES)
def test_the_index_stores_prepared_keys_and_the_shard_keeps_no_copy_of_the_rows(clustered, space):
    keys, ids, _ = (part[:50] for part in clustered)
    rows = sorted_rows(keys, ids)
    built = build_shard(**rows, space=space, **SETTINGS)
    opened = HnswShard.from_bytes(built.to_bytes(), **rows, space=space, ef_search=10)
    assert built.file_bytes == len(built.to_bytes())
    for shard in (built, opened):
        stored = shard._index.get_items(np.sort(ids), return_type="numpy").astype("f4")
        assert stored.tobytes() == prepare_vectors(rows["keys"], space=space, name="keys").tobytes()
        assert np.shares_memory(shard._keys, rows["keys"])
        assert np.array_equal(shard.trajectory_ids, np.sort(ids))


def test_keys_are_added_in_blocks_that_change_nothing(clustered, monkeypatch):
    keys, ids, _ = clustered
    whole = build_shard(keys, ids, space="l2", **SETTINGS).to_bytes()
    monkeypatch.setattr("rapid_dist.knowledge_base.index._KEYS_PER_ADD", 700)
    assert build_shard(keys, ids, space="l2", **SETTINGS).to_bytes() == whole


def test_no_queries_give_no_rows():
    shard = build_shard(np.eye(3), np.arange(3), space="l2", **SETTINGS)
    assert shard.query(np.empty((0, 3)), 2).trajectory_id.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"space": "l1"}, SpecError),
        ({"M": 1}, SpecError),
        ({"ef_construction": 0}, SpecError),
        ({"seed": -1}, SpecError),
        ({"num_threads": 0}, SpecError),
        ({"trajectory_ids": np.array([1, 1, 2])}, InputError),
        ({"keys": np.empty((0, 3)), "trajectory_ids": np.empty(0, int)}, InputError),
    ],
)
def test_bad_build_arguments_are_refused(change, error):
    good = {"keys": np.eye(3), "trajectory_ids": np.arange(3), "space": "l2", **SETTINGS}
    with pytest.raises(error):
        build_shard(**(good | change))


def test_queries_of_another_dim_are_refused():
    with pytest.raises(InputError, match="queries"):
        build_shard(np.eye(3), np.arange(3), space="l2", **SETTINGS).query(np.eye(4), 1)


def test_an_index_file_cut_short_by_a_full_disk_is_refused(monkeypatch):
    shard = build_shard(np.eye(3), np.arange(3), space="l2", **SETTINGS)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: b"cut short")
    with pytest.raises(StorageError, match="cut short"):
        shard.to_bytes()
