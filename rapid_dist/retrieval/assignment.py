"""Which shard a trajectory lies in: a function of its id, or of its key and public centroids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rapid_dist.errors import SpecError
from rapid_dist.retrieval.exact import prepare_vectors
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

    The clusters are halved again and again across their longest axis, at the widest gap that leaves no half more than
    CAPACITY times an equal share of the sample for each of its shards. Only clusters too large for any such cut
    break that rule. Later keys change nothing: where a key goes is fixed by the sample.
    Raises SpecError when num_shards < 1, InputError without keys.
    """
    if num_shards < 1:
        raise SpecError(f"num_shards is {num_shards}; expected at least 1")
    keys = prepare_vectors(sample, space=space, name="keys")
    num_clusters = max(num_shards, min(_MAX_CENTROIDS, num_shards * CENTROIDS_PER_SHARD))
    centroids = fit_prototypes(keys, num_prototypes=num_clusters, seed=seed)
    sizes = np.bincount(assign_prototypes(keys, centroids), minlength=len(centroids))
    shard = np.zeros(len(centroids), np.int32)
    _halve(centroids, sizes, np.arange(len(centroids)), shard, num_shards, room=CAPACITY * len(keys) / num_shards)
    return Clusters(centroid=centroids, shard=_without_gaps(shard))


def _halve(
    centroids: np.ndarray, sizes: np.ndarray, members: np.ndarray, shard: np.ndarray, num_shards: int, *, room: float
) -> None:
    """Adds to shard[members] their number among num_shards: those below the cut first, then the others."""
    if num_shards == 1 or len(members) == 1:
        return
    num_below = num_shards // 2
    place = _along_longest_axis(centroids[members], sizes[members])
    order = np.argsort(place, kind="stable")
    members, gaps = members[order], np.diff(place[order])
    below = np.cumsum(sizes[members])[:-1]
    total = sizes[members].sum()
    has_room = (below <= room * num_below) & (total - below <= room * (num_shards - num_below))
    if has_room.any():
        cut = np.argmax(np.where(has_room, gaps, -1.0))
    else:
        cut = np.argmin(np.abs(below - total * num_below / num_shards))
    low, high = members[: cut + 1], members[cut + 1 :]
    shard[high] += num_below
    _halve(centroids, sizes, low, shard, num_below, room=room)
    _halve(centroids, sizes, high, shard, num_shards - num_below, room=room)


def _along_longest_axis(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(m,) float64 coordinates of points (m, d) along their first principal axis, which points to its largest entry."""
    weights = np.maximum(weights, 1).astype(np.float64)
    centred = points.astype(np.float64) - np.average(points, axis=0, weights=weights)
    _, axes = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    axis = axes[:, -1]
    return centred @ axis * np.sign(axis[np.argmax(np.abs(axis))])


def _without_gaps(shard: np.ndarray) -> np.ndarray:
    """The shards numbered from 0 without those that got no cluster."""
    return np.unique(shard, return_inverse=True)[1].astype(np.int32)
