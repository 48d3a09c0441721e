"""Rows go to shards by themselves alone, evenly or with their like."""

import numpy as np
import pytest

from rapid_dist.errors import InputError, SpecError
from rapid_dist.knowledge_base.clusters import CAPACITY, cluster_shards, fit_clusters, hash_shards


def islands(sizes, *, dim=4, spread=0.1, seed=0):
    """Keys around far apart centres, and which centre each is of."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), dim)) * 50
    island = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[island] + rng.normal(size=(len(island), dim)) * spread).astype("f4"), island


@pytest.mark.parametrize("step", [1, 2, 8, 1024])
def test_hashing_spreads_ids_evenly_whatever_their_pattern(step):
    counts = np.bincount(hash_shards(np.arange(8000) * step, 8), minlength=8)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_a_hash_is_a_function_of_the_id():
    ids = np.random.default_rng(0).permutation(500)
    assert hash_shards(ids, 7).tolist() == [int(hash_shards(np.array([i]), 7)[0]) for i in ids]


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_a_key_goes_to_its_shard_whatever_the_other_keys_are(space):
    keys, _ = islands([40] * 6)
    clusters = fit_clusters(keys, num_shards=3, space=space, seed=0)
    together = cluster_shards(keys, clusters, space=space)
    alone = [int(cluster_shards(keys[i : i + 1], clusters, space=space)[0]) for i in range(0, len(keys), 7)]
    assert together[::7].tolist() == alone


def test_islands_are_not_torn_apart():
    keys, island = islands([50] * 8)
    clusters = fit_clusters(keys, num_shards=4, space="l2", seed=0)
    shard = cluster_shards(keys, clusters, space="l2")
    crossings = sum(len(np.unique(shard[island == i])) - 1 for i in range(8))
    assert len(np.unique(shard)) == 4
    assert crossings <= 2  # room forces at most a few of an island's small clusters elsewhere


def test_no_shard_of_the_sample_is_over_its_room_though_islands_differ_in_size():
    keys, _ = islands([400, 100, 60, 30, 10], spread=3.0)
    clusters = fit_clusters(keys, num_shards=5, space="l2", seed=0)
    counts = np.bincount(cluster_shards(keys, clusters, space="l2"), minlength=5)
    assert counts.max() <= np.ceil(CAPACITY * len(keys) / 5)


def test_the_clusters_depend_on_the_sample_as_a_set():
    keys, _ = islands([30] * 5)
    mixed = np.random.default_rng(1).permutation(keys)
    one, other = (fit_clusters(k, num_shards=3, space="l2", seed=2) for k in (keys, mixed))
    assert one.centroid.tobytes() == other.centroid.tobytes()
    assert one.shard.tolist() == other.shard.tolist()


def test_fewer_different_keys_than_shards_give_fewer_shards():
    clusters = fit_clusters(np.repeat(np.eye(3, 4, dtype="f4"), 5, axis=0), num_shards=8, space="l2", seed=0)
    assert sorted(set(clusters.shard.tolist())) == list(range(clusters.num_shards))
    assert clusters.num_shards <= 3


def test_nothing_to_fit_on_is_refused():
    with pytest.raises(SpecError):
        fit_clusters(np.zeros((3, 2), "f4"), num_shards=0, space="l2", seed=0)
    with pytest.raises(InputError):
        fit_clusters(np.zeros((0, 2), "f4"), num_shards=1, space="l2", seed=0)
