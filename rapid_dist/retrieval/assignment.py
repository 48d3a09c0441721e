"""Which shard a trajectory lies in: a function of its id, or of its key and public centroids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rapid_dist.errors import SpecError
from rapid_dist.retrieval.exact import pair_distances, prepare_vectors
from rapid_dist.retrieval.prototypes import assign_prototypes, fit_prototypes
from rapid_dist.retrieval.routing import CENTROIDS_PER_SHARD
from rapid_dist.seeding import draw_integers

CAPACITY = 1.25  # a shard takes at most this many times an equal share of the public sample
_MAX_CENTROIDS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """Public centroids (m, d) float32 and the shard (m,) int32 that the keys nearest to each go to."""

    centroid: np.ndarray
    shard: np.ndarray

    @property
    def num_shards(self) -> int:
        return int(self.shard.max()) + 1


def hash_shards(trajectory_ids: np.ndarray, num_shards: int) -> np.ndarray:
    """The shard (n,) int64 of each id (n,), spread evenly, whatever pattern the ids follow."""
    return draw_integers(0, "shard", trajectory_ids, 1, below=num_shards)[:, 0]


def cluster_shards(keys: np.ndarray, clusters: Clusters, *, space: str) -> np.ndarray:
    """The shard (n,) int64 of each key (n, d): that of the nearest centroid. One key's does not depend on others."""
    nearest = assign_prototypes(prepare_vectors(keys, space=space, name="keys"), clusters.centroid)
    return clusters.shard[nearest].astype(np.int64)


def fit_clusters(sample: np.ndarray, *, num_shards: int, space: str, seed: int) -> Clusters:
    """Many small clusters of a public sample of keys (n, d), packed into num_shards shards of like clusters.

    A cluster goes to the nearest shard that has room: CAPACITY times an equal share of the sample. A cluster
    that fits nowhere goes to the emptiest shard, so only a cluster larger than the room left breaks the rule.
    Later keys change nothing: where a key goes is fixed by the sample.
    Raises SpecError when num_shards < 1, InputError without keys.
    """
    if num_shards < 1:
        raise SpecError(f"num_shards is {num_shards}; expected at least 1")
    keys = prepare_vectors(sample, space=space, name="keys")
    num_clusters = max(num_shards, min(_MAX_CENTROIDS, num_shards * CENTROIDS_PER_SHARD))
    centroids = fit_prototypes(keys, num_prototypes=num_clusters, seed=seed)
    sizes = np.bincount(assign_prototypes(keys, centroids), minlength=len(centroids))
    anchors = fit_prototypes(centroids, num_prototypes=num_shards, seed=seed)
    preferred = _nearest_first(centroids, anchors)
    room = np.full(num_shards, -(-int(CAPACITY * len(keys)) // num_shards))
    shard = np.empty(len(centroids), np.int32)
    for cluster in np.argsort(-sizes, kind="stable"):
        fitting = [s for s in preferred[cluster] if room[s] >= sizes[cluster]]
        shard[cluster] = fitting[0] if fitting else np.argmax(room)
        room[shard[cluster]] -= sizes[cluster]
    return Clusters(centroid=centroids, shard=_without_gaps(shard))


def _nearest_first(centroids: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(m, a) int64: the anchors of each centroid, nearest first, ties to the lower index."""
    query, key = np.indices((len(centroids), len(anchors))).reshape(2, -1)
    distance = pair_distances(centroids, anchors, query, key, space="l2").reshape(len(centroids), len(anchors))
    return np.argsort(distance, axis=1, kind="stable")


def _without_gaps(shard: np.ndarray) -> np.ndarray:
    """The shards numbered from 0 without those that got no cluster."""
    return np.unique(shard, return_inverse=True)[1].astype(np.int32)
