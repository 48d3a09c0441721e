import numpy as np
import pytest

from rapid_dist.errors import ArtifactError, InputError, SpecError
from rapid_dist.knowledge_base.exact import SPACES, search_exact
from rapid_dist.knowledge_base.index import build_shard
from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard

NUM_ROWS, DIM = 120, 6


@pytest.fixture
def table():
    """120 trajectories with values of shape (2, 3); label -1 is 'unknown'."""
    rng = np.random.default_rng(0)
    return {
        "keys": rng.normal(size=(NUM_ROWS, DIM)).astype("f4"),
        "trajectory_id": rng.permutation(10_000)[:NUM_ROWS],
        "label": rng.integers(-1, 4, NUM_ROWS).astype("i4"),
        "prototype": rng.integers(0, 5, NUM_ROWS).astype("i4"),
        "value": rng.normal(size=(NUM_ROWS, 2, 3)).astype("f2"),
    }


@pytest.fixture
def queries():
    return np.random.default_rng(1).normal(size=(12, DIM)).astype("f4")


def open_base(table, *, num_shards, space="l2", method="exact"):
    shards = []
    for rows in np.array_split(np.arange(NUM_ROWS), num_shards):
        part = {name: column[rows] for name, column in table.items()}
        if method == "hnsw":
            part["index"] = build_shard(
                part["keys"], part["trajectory_id"], space=space, M=16, ef_construction=200, seed=0
            )
        shards.append(OpenShard(**part))
    return KnowledgeBaseSearch(shards, space=space, method=method)


def same(a, b):
    return np.array_equal(a.trajectory_id, b.trajectory_id) and a.distance.tobytes() == b.distance.tobytes()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ["exact", "hnsw"])
def test_shard_count_and_method_change_no_bit(table, queries, space, method):
    """With ef_search above the shard size a graph of this size visits every key."""
    truth = search_exact(table["keys"], table["trajectory_id"], queries, num_neighbors=7, space=space)
    for num_shards in (1, 3, 8):
        base = open_base(table, num_shards=num_shards, space=space, method=method)
        assert same(base.query(queries, num_neighbors=7), truth)


@pytest.mark.parametrize("column", ["label", "prototype"])
@pytest.mark.parametrize("method", ["exact", "hnsw"])
def test_restriction_is_exact_over_the_allowed_rows(table, queries, column, method):
    allowed = [frozenset([1]), frozenset([2, 3]), frozenset([3, 2, 99])] * 4
    base = open_base(table, num_shards=3, method=method)
    found = base.query_within(queries, num_neighbors=4, column=column, allowed=allowed)
    for i, values in enumerate(allowed):
        rows = np.isin(table[column], list(values))
        truth = search_exact(
            table["keys"][rows], table["trajectory_id"][rows], queries[[i]], num_neighbors=4, space="l2"
        )
        assert found.trajectory_id[i].tolist() == truth.trajectory_id[0].tolist()
        assert found.distance[i].tobytes() == truth.distance[0].tobytes()


def test_one_allowed_value_a_query_may_be_an_array(table, queries):
    base = open_base(table, num_shards=2)
    labels = np.arange(12, dtype=np.int32) % 4
    found = base.query_within(queries, num_neighbors=3, column="label", allowed=labels)
    sets = base.query_within(queries, num_neighbors=3, column="label", allowed=[{int(v)} for v in labels])
    assert same(found, sets)
    assert (base.labels_of(found.trajectory_id.ravel()).reshape(12, 3) == labels[:, None]).all()


def test_unknown_labels_are_found_only_when_asked_for(table, queries):
    base = open_base(table, num_shards=2)
    found = base.query_within(queries, num_neighbors=NUM_ROWS, column="label", allowed=[{0, 1, 2, 3}] * 11 + [{-1}])
    for row, is_unknown in [(found.trajectory_id[0], False), (found.trajectory_id[11], True)]:
        labels = base.labels_of(row[row >= 0])
        assert ((labels == -1) == is_unknown).all()
        assert len(labels) == ((table["label"] == -1) == is_unknown).sum()


def test_nothing_allowed_gives_padding(table, queries):
    found = open_base(table, num_shards=2).query_within(
        queries[:2], num_neighbors=3, column="label", allowed=[frozenset(), {77}]
    )
    assert found.trajectory_id.tolist() == [[-1] * 3] * 2
    assert np.isinf(found.distance).all()


def test_more_neighbours_than_rows_gives_padding(table, queries):
    found = open_base(table, num_shards=4, method="hnsw").query(queries, num_neighbors=NUM_ROWS + 5)
    assert (found.trajectory_id[:, :NUM_ROWS] >= 0).all()
    assert (found.trajectory_id[:, NUM_ROWS:] == -1).all()


def test_lookup_returns_the_rows_of_the_ids(table):
    base = open_base(table, num_shards=5)
    rows = np.array([119, 0, 60, 60, 3])
    ids = table["trajectory_id"][rows]
    np.testing.assert_array_equal(base.values_of(ids), table["value"][rows].astype("f4"))
    np.testing.assert_array_equal(base.labels_of(ids), table["label"][rows])
    np.testing.assert_array_equal(base.prototypes_of(ids), table["prototype"][rows])
    assert base.values_of(ids).dtype == np.float32
    assert base.values_of(ids[:0]).shape == (0, 2, 3)
    assert (len(base), base.dim, base.value_shape) == (NUM_ROWS, DIM, (2, 3))


@pytest.mark.parametrize("unknown", [-1, 10_001])
def test_lookup_refuses_unknown_ids(table, unknown):
    base = open_base(table, num_shards=2)
    with pytest.raises(ArtifactError, match="not in the knowledge base;") as caught:
        base.values_of(np.array([table["trajectory_id"][0], unknown]))
    assert "10001" not in str(caught.value)  # it may be the neighbour of a private record


def test_lookup_refuses_a_matrix_of_ids(table):
    with pytest.raises(InputError):
        open_base(table, num_shards=2).values_of(table["trajectory_id"].reshape(2, -1))


def test_a_base_refuses_shards_that_do_not_fit(table):
    shard = OpenShard(**table)
    with pytest.raises(ArtifactError, match="twice"):
        KnowledgeBaseSearch([shard, shard], space="l2", method="exact")
    other = OpenShard(**(table | {"value": table["value"][:, :1]}))
    with pytest.raises(ArtifactError, match="value shape"):
        KnowledgeBaseSearch([shard, other], space="l2", method="exact")
    with pytest.raises(InputError):
        KnowledgeBaseSearch([], space="l2", method="exact")


@pytest.mark.parametrize(("space", "method"), [("l1", "exact"), ("l2", "magic"), ("l2", "hnsw")])
def test_a_base_refuses_settings_it_cannot_serve(table, space, method):
    with pytest.raises(SpecError):
        KnowledgeBaseSearch([OpenShard(**table)], space=space, method=method)


def test_a_base_refuses_an_index_of_another_space(table):
    index = build_shard(table["keys"], table["trajectory_id"], space="ip", M=8, ef_construction=20, seed=0)
    with pytest.raises(SpecError, match="space l2"):
        KnowledgeBaseSearch([OpenShard(**table, index=index)], space="l2", method="hnsw")


def test_a_shard_refuses_rows_and_index_of_different_ids(table):
    index = build_shard(table["keys"], np.arange(NUM_ROWS), space="l2", M=8, ef_construction=20, seed=0)
    with pytest.raises(ArtifactError, match="differ"):
        OpenShard(**table, index=index)
    with pytest.raises(ArtifactError, match="rows"):
        OpenShard(**(table | {"label": table["label"][1:]}))


def test_restriction_refuses_bad_arguments(table, queries):
    base = open_base(table, num_shards=2)
    with pytest.raises(SpecError, match="column"):
        base.query_within(queries, num_neighbors=1, column="value", allowed=[{1}] * 12)
    for allowed in ([{1}], np.zeros((12, 2), int)):
        with pytest.raises(InputError):
            base.query_within(queries, num_neighbors=1, column="label", allowed=allowed)
