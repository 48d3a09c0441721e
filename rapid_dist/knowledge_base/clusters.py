"""K-means clusters of keys: prototypes to vote for, shards of like keys, and centroids to route queries by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rapid_dist.errors import InputError, SpecError
from rapid_dist.knowledge_base.exact import prepare_vectors, search_exact
from rapid_dist.seeding import draw_integers


def fit_prototypes(keys: np.ndarray, *, num_prototypes: int, seed: int) -> np.ndarray:
    """Returns k-means centroids in l2, (m, d) float32, in lexicographic order.

    m is num_prototypes, or fewer when there are not that many distinct keys or centroids: read the number
    off the result. The result depends on the keys as a set of rows and on the seed, not on their order.
    Keys must be public: a centroid says much about the keys in it. keys: (n, d), n >= 1; all are held and
    sorted in memory, so pass a sample of a large base.
    Raises InputError without keys or for non-finite ones, SpecError when num_prototypes < 1.
    """
    if num_prototypes < 1:
        raise SpecError(f"num_prototypes is {num_prototypes}; expected at least 1")
    keys = prepare_vectors(keys, space="l2", name="keys")
    if len(keys) == 0:
        raise InputError("got no keys; expected at least one to make prototypes of")
    # Adding zero turns -0.0 into 0.0, which are one key but two bit patterns.
    distinct, counts = np.unique(keys + np.float32(0), axis=0, return_counts=True)
    if len(distinct) <= num_prototypes:
        return distinct
    # Here, because whoever only searches a base needs neither.
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    kmeans = MiniBatchKMeans(num_prototypes, random_state=seed, n_init=3, batch_size=1024)
    # Batches this small gain nothing from threads, and threads that wait for each other on shared cores cost much.
    with threadpool_limits(1):
        kmeans.fit(distinct, sample_weight=counts)
    return np.unique(kmeans.cluster_centers_.astype(np.float32) + np.float32(0), axis=0)


def assign_prototypes(keys: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns the index of the nearest centroid in l2 of each key, (n,) int32, ties to the lower index.

    One key's prototype does not depend on the other keys, so shards may be assigned apart.
    keys: (n, d); centroids: (m, d), m >= 1. Raises InputError for other shapes or non-finite values.
    """
    if len(centroids) == 0:
        raise InputError("got no centroids; expected at least one from fit_prototypes")
    nearest = search_exact(centroids, np.arange(len(centroids)), keys, num_neighbors=1, space="l2")
    return nearest.trajectory_id[:, 0].astype(np.int32)


CENTROIDS_PER_SHARD = 16
_MAX_KEYS = 20_000


def fit_shard_centroids(keys: np.ndarray, *, space: str, seed: int) -> np.ndarray:
    """Centroids (m, d) float32 of one shard's public keys (n, d), m at most 16; unit vectors' means for cosine."""
    every = -(-len(keys) // _MAX_KEYS)
    sample = prepare_vectors(keys[::every], space=space, name="keys")
    return fit_prototypes(sample, num_prototypes=CENTROIDS_PER_SHARD, seed=seed)


class Router:
    """Orders shards by the distance of a query to the nearest of their centroids.

    centroids: (m_s, d) of each shard, in the order of the shards. Ties go to the earlier shard.
    Guarantee: the shards of a query are a function of that query and of public centroids alone.
    """

    def __init__(self, centroids: Sequence[np.ndarray], *, space: str):
        if not centroids:
            raise InputError("got no shards to route to; expected at least one")
        self._centroids, self._space = tuple(centroids), space

    @property
    def num_shards(self) -> int:
        return len(self._centroids)

    def order(self, queries: np.ndarray) -> np.ndarray:
        """(q, num_shards) int64: all shards of each query (q, d), the most promising first."""
        distance = np.empty((len(queries), self.num_shards), np.float32)
        for position, centroids in enumerate(self._centroids):
            ids = np.arange(len(centroids))
            nearest = search_exact(centroids, ids, queries, num_neighbors=1, space=self._space)
            distance[:, position] = nearest.distance[:, 0]
        return np.argsort(distance, axis=1, kind="stable")

    def asked_of(self, queries: np.ndarray, num_probes: int) -> list[np.ndarray]:
        """For each shard the rows of the queries (q, d) that go to it, ascending; each row goes to num_probes shards.

        Raises SpecError when num_probes < 1.
        """
        if num_probes < 1:
            raise SpecError(f"num_probes is {num_probes}; expected at least 1")
        chosen = self.order(queries)[:, :num_probes]
        return [np.flatnonzero((chosen == position).any(axis=1)) for position in range(self.num_shards)]


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


def plan_compaction(shards: Sequence[tuple[int, int]], *, max_rows: int) -> list[list[int]]:
    """Groups of at least two positions to merge into one shard each; shards that fit with no other are left out.

    shards: (cluster, rows) of each. Only shards of one cluster are merged, smallest first, as long as the sum is at
    most max_rows: so routing keeps its meaning and a builder's memory its bound. A function of its arguments.
    Raises SpecError when max_rows < 1.
    """
    if max_rows < 1:
        raise SpecError(f"max_rows is {max_rows}; expected at least 1")
    groups: list[list[int]] = []
    for cluster in sorted({c for c, _ in shards}):
        members = sorted((rows, position) for position, (c, rows) in enumerate(shards) if c == cluster)
        current, size = [], 0
        for rows, position in members:
            if size + rows > max_rows:
                groups.append(current)
                current, size = [], 0
            current.append(position)
            size += rows
        groups.append(current)
    return [sorted(group) for group in groups if len(group) > 1]
