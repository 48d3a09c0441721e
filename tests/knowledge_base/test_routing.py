"""Queries go to the shards whose centroids are nearest, and recall says what that costs."""

import numpy as np
import pytest

from rapid_dist.errors import InputError, SpecError
from rapid_dist.knowledge_base.clusters import Router, fit_shard_centroids
from rapid_dist.knowledge_base.exact import SPACES
from rapid_dist.knowledge_base.neighbors import RecallTally, merge_neighbors, probe_counts, recall_at, thinned
from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard
from tests.knowledge_base.test_assignment import islands


@pytest.fixture
def split():
    """Six islands in six shards, and queries near some of the keys."""
    keys, island = islands([40] * 6, spread=2.0)
    shards = [
        OpenShard(
            keys=keys[rows],
            trajectory_id=rows,
            label=np.zeros(len(rows), "i4"),
            prototype=np.zeros(len(rows), "i4"),
            value=np.zeros((len(rows), 1), "f2"),
        )
        for rows in (np.flatnonzero(island == i) for i in range(6))
    ]
    return shards, (keys[::11] + 0.1).astype("f4")


def router_of(shards, space="l2"):
    return Router([fit_shard_centroids(s.keys, space=space, seed=0) for s in shards], space=space)


def search_over(shards, num_probes, space="l2"):
    router = router_of(shards, space)
    return KnowledgeBaseSearch(shards, space=space, method="exact", router=router, num_probes=num_probes)


@pytest.mark.parametrize("space", SPACES)
def test_the_order_is_that_of_the_nearest_centroid(split, space):
    shards, queries = split
    centroids = [fit_shard_centroids(s.keys, space=space, seed=0).astype(float) for s in shards]
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    for i, order in enumerate(router_of(shards, space).order(queries)):
        distance = []
        for c in centroids:
            if space == "l2":
                distance.append(((c - queries[i]) ** 2).sum(1).min())
            elif space == "ip":
                distance.append((1 - c @ queries[i]).min())
            else:
                distance.append((1 - (c / np.linalg.norm(c, axis=1, keepdims=True)) @ unit[i]).min())
        assert np.asarray(distance)[order] == pytest.approx(np.sort(distance), rel=1e-4, abs=1e-4)


def test_a_tie_goes_to_the_earlier_shard():
    same = np.ones((1, 3), "f4")
    assert Router([same, same, same], space="l2").order(np.zeros((2, 3), "f4")).tolist() == [[0, 1, 2]] * 2


def test_every_probe_is_full_fan_out_and_one_probe_finds_the_island(split):
    shards, queries = split
    full = KnowledgeBaseSearch(shards, space="l2", method="exact").query(queries, num_neighbors=5)
    everywhere = search_over(shards, 6).query(queries, num_neighbors=5)
    assert everywhere.trajectory_id.tolist() == full.trajectory_id.tolist()
    assert everywhere.distance.tobytes() == full.distance.tobytes()
    once = search_over(shards, 1).query(queries, num_neighbors=1)
    assert once.trajectory_id.tolist() == full.trajectory_id[:, :1].tolist()


def test_what_a_routed_query_finds_does_not_depend_on_the_others(split):
    shards, queries = split
    search = search_over(shards, 2)
    together = search.query(queries, num_neighbors=3)
    for i in range(len(queries)):
        assert search.query(queries[i : i + 1], num_neighbors=3).trajectory_id[0].tolist() == (
            together.trajectory_id[i].tolist()
        )


def test_only_the_probed_shards_are_searched(split):
    shards, queries = split
    probed = router_of(shards).order(queries)[:, :2]
    found = search_over(shards, 2).query(queries, num_neighbors=50).trajectory_id
    for ids, positions in zip(found, probed, strict=True):
        assert set(ids[ids >= 0] // 40) == set(positions)


def test_the_tally_of_shards_is_the_recall_of_the_whole(split):
    shards, queries = split
    order = router_of(shards).order(queries)
    tally = RecallTally(order, num_neighbors=3)
    broken = []  # an index that finds only even ids
    for position, shard in enumerate(shards):
        truth = shard.query(queries, num_neighbors=3, space="l2", method="exact")
        even = truth.trajectory_id % 2 == 0
        found = type(truth)(np.where(even, truth.trajectory_id, -1), np.where(even, truth.distance, np.inf))
        broken.append(found)
        tally.add(position, found=found, truth=truth)
    whole = KnowledgeBaseSearch(shards, space="l2", method="exact").query(queries, num_neighbors=3)
    facts = tally.facts()
    expected = recall_at(merge_neighbors(broken, 3), whole, 1)
    assert 0 < expected < 1
    assert facts["recall_at_1"] == pytest.approx(expected, abs=1e-6)
    assert facts["routing"]["6"] == {k: v for k, v in facts.items() if k != "routing"}
    counts = [facts["routing"][str(n)]["recall_at_3"] for n in probe_counts(6)]
    assert counts == sorted(counts)


@pytest.mark.parametrize(("num_shards", "counts"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_the_numbers_of_probes_that_are_measured(num_shards, counts):
    assert probe_counts(num_shards) == counts


@pytest.mark.parametrize(("size", "count", "kept"), [(10, 5, 5), (10, 3, 3), (10, 4, 4), (3, 9, 3), (7, 0, 0)])
def test_rows_are_thinned_evenly_to_at_most_so_many(size, count, kept):
    rows = thinned(np.arange(size), count)
    assert len(rows) == kept
    assert len(set(np.diff(rows))) <= 1


def test_wrong_settings_are_refused(split):
    shards, _ = split
    with pytest.raises(SpecError, match="num_probes is 0"):
        search_over(shards, 0)
    with pytest.raises(SpecError, match="no centroids"):
        KnowledgeBaseSearch(shards, space="l2", method="exact", num_probes=2)
    with pytest.raises(InputError):
        Router([], space="l2")
