import numpy as np
import pytest

from rapid_dist.errors import SpecError
from rapid_dist.knowledge_base.index import build_shard
from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard, allowed_public_labels, nearest_trajectories

LABEL_MAP = {0: 1, 2: 1, 3: 0}


def open_base(keys, label, *, num_shards=2, method="exact", ids=None, **index):
    ids = np.arange(len(keys)) * 10 + 3 if ids is None else ids
    shards = []
    for rows in np.array_split(np.arange(len(keys)), num_shards):
        built = build_shard(keys[rows], ids[rows], space="l2", seed=0, **index) if method == "hnsw" else None
        if built is not None:
            built.ef_search = 1
        shards.append(
            OpenShard(
                keys=keys[rows],
                trajectory_id=ids[rows],
                label=label[rows].astype("i4"),
                prototype=np.zeros(len(rows), "i4"),
                value=np.zeros((len(rows), 1), "f2"),
                index=built,
            )
        )
    return KnowledgeBaseSearch(shards, space="l2", method=method)


@pytest.fixture
def base():
    rng = np.random.default_rng(0)
    return open_base(rng.normal(size=(60, 4)).astype("f4"), rng.integers(-1, 4, 60))


@pytest.fixture
def queries():
    rng = np.random.default_rng(1)
    return rng.normal(size=(20, 4)).astype("f4"), rng.integers(-1, 2, 20)


def brute_force(base, key, allowed) -> int:
    rows = [
        (((k - key) ** 2).sum(), i)
        for shard in base.shards
        for k, i, label in zip(shard.keys.astype(float), shard.trajectory_id, shard.label, strict=True)
        if not allowed or label in allowed
    ]
    return min(rows)[1]


@pytest.mark.parametrize("label_map", [LABEL_MAP, {}])
def test_each_record_gets_the_nearest_trajectory_allowed_for_its_class(base, queries, label_map):
    keys, label = queries
    allowed = [[public for public, private in label_map.items() if private == y] for y in label]
    expected = [brute_force(base, k, labels) for k, labels in zip(keys, allowed, strict=True)]
    assert nearest_trajectories(keys, label, base, label_map).tolist() == expected


def test_the_map_changes_what_is_found(base, queries):
    keys, label = queries
    with_map, without = (nearest_trajectories(keys, label, base, m) for m in (LABEL_MAP, {}))
    assert with_map.tolist() != without.tolist()


def test_a_record_without_a_class_searches_everywhere(base, queries):
    keys, label = queries
    free = nearest_trajectories(keys, np.full_like(label, -1), base, LABEL_MAP)
    assert free.tolist() == [brute_force(base, k, []) for k in keys]


def test_no_records_find_nothing(base):
    found = nearest_trajectories(np.empty((0, 4), "f4"), np.empty(0, np.int64), base, LABEL_MAP)
    assert found.shape == (0,)


def test_a_mapped_class_without_trajectories_is_refused(base, queries):
    keys, label = queries
    with pytest.raises(SpecError, match="label_map names public classes that have no trajectory"):
        nearest_trajectories(keys, np.zeros_like(label), base, {77: 0})


def test_the_public_classes_of_a_private_one():
    assert allowed_public_labels(LABEL_MAP, 1) == {0, 2}
    assert allowed_public_labels(LABEL_MAP, 5) == frozenset()


@pytest.mark.parametrize("label_map", [LABEL_MAP, {}])
def test_what_a_record_finds_does_not_depend_on_the_other_records(base, queries, label_map):
    keys, label = queries
    together = nearest_trajectories(keys, label, base, label_map)
    alone = [nearest_trajectories(keys[i : i + 1], label[i : i + 1], base, label_map)[0] for i in range(len(keys))]
    assert together.tolist() == alone


def test_what_a_record_finds_in_a_graph_does_not_depend_on_the_other_records():
    """A sparse graph that some searches cannot finish: how they are helped must not help their neighbours."""
    depends = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(40, 300))
        centres = rng.normal(size=(3, 4)) * 20
        spread = rng.choice([0, 0.01, 1])
        keys = (centres[rng.integers(0, 3, size)] + rng.normal(size=(size, 4)) * spread).astype("f4")
        base = open_base(keys, np.zeros(size), num_shards=1, method="hnsw", M=2, ef_construction=2)
        asked = (keys[rng.integers(0, size, 20)] + 0.3 * rng.normal(size=(20, 4))).astype("f4")
        label = np.full(20, -1)
        together = nearest_trajectories(asked, label, base, {})
        alone = [nearest_trajectories(asked[i : i + 1], label[:1], base, {})[0] for i in range(20)]
        if together.tolist() != alone:
            depends.append(seed)
    assert depends == []
