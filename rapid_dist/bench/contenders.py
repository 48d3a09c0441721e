"""What is compared: each is made from unit keys, and answers queries with the ids of their nearest keys by cosine.

A query runs on one core; building may use several threads.
"""

from __future__ import annotations

from typing import Protocol

import hnswlib
import numpy as np

from rapid_dist.bench.settings import IndexSettings
from rapid_dist.retrieval.merge import NO_TRAJECTORY, Neighbors, first_neighbors, merge_neighbors
from rapid_dist.retrieval.prototypes import assign_prototypes, fit_prototypes
from rapid_dist.retrieval.shard import HnswShard, build_shard

_KEYS_PER_BLOCK = 16384
_QUERIES_PER_BLOCK = 256
_PROTOTYPES_PER_SHARD = 16
_MAX_PROTOTYPE_KEYS = 50_000


class Contender(Protocol):
    """ids(queries, k): (q, d) float32 unit vectors -> (q, k) int64 row numbers of the nearest keys."""

    def ids(self, queries: np.ndarray, num_neighbors: int) -> np.ndarray: ...


class BruteForce:
    """The matrix product of all queries and all keys, in float32 by BLAS, with the best k kept block by block."""

    def __init__(self, keys: np.ndarray):
        self._keys = keys.copy()

    def ids(self, queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        """As Contender."""
        found = [
            self._best(queries[q0 : q0 + _QUERIES_PER_BLOCK], num_neighbors)
            for q0 in range(0, len(queries), _QUERIES_PER_BLOCK)
        ]
        return np.concatenate(found)

    def _best(self, queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        best = np.full((len(queries), num_neighbors), -np.inf, np.float32)
        ids = np.full(best.shape, NO_TRAJECTORY, np.int64)
        for k0 in range(0, len(self._keys), _KEYS_PER_BLOCK):
            score = queries @ self._keys[k0 : k0 + _KEYS_PER_BLOCK].T
            # Most blocks hold nothing better than what is kept; a maximum is much cheaper than a partition.
            rows = np.flatnonzero(score.max(axis=1) > best.min(axis=1))
            top = np.argpartition(score[rows], -min(num_neighbors, score.shape[1]), axis=1)[:, -num_neighbors:]
            both = np.concatenate([best[rows], np.take_along_axis(score[rows], top, axis=1)], axis=1)
            both_ids = np.concatenate([ids[rows], top + k0], axis=1)
            kept = np.argsort(-both, axis=1)[:, :num_neighbors]
            best[rows] = np.take_along_axis(both, kept, axis=1)
            ids[rows] = np.take_along_axis(both_ids, kept, axis=1)
        return ids


class PlainHnsw:
    """One hnswlib index over all keys, used as its own documentation does."""

    def __init__(self, keys: np.ndarray, settings: IndexSettings, *, num_threads: int):
        self._index = hnswlib.Index(space="cosine", dim=keys.shape[1])
        self._index.init_index(
            max_elements=len(keys), M=settings.M, ef_construction=settings.ef_construction, random_seed=settings.seed
        )
        for first in range(0, len(keys), _KEYS_PER_BLOCK):  # In blocks, so that Ctrl-C is heard in between.
            block = keys[first : first + _KEYS_PER_BLOCK]
            self._index.add_items(block, np.arange(first, first + len(block)), num_threads=num_threads)
        self._index.set_ef(settings.ef_search)

    def ids(self, queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        """As Contender."""
        return self._index.knn_query(queries, k=num_neighbors, num_threads=1)[0].astype(np.int64)


class Base:
    """Our own: HNSW shards that hold whole clusters of public k-means, all asked, or the nearest few.

    A query asks the num_probes shards whose nearest centroid is nearest to it; None asks all.
    """

    def __init__(self, shards: list[HnswShard], centroids: np.ndarray, shard_of: np.ndarray, probes: int | None = None):
        self.shards = shards
        self.num_probes = probes
        self._centroids, self._shard_of = centroids, shard_of

    def routed(self, num_probes: int) -> Base:
        """The same shards, asked num_probes a query."""
        return Base(self.shards, self._centroids, self._shard_of, num_probes)

    def ids(self, queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        """As Contender."""
        return self.query(queries, num_neighbors).trajectory_id

    def query(self, queries: np.ndarray, num_neighbors: int) -> Neighbors:
        """Returns the neighbours in the shards that are asked, merged by (distance, trajectory_id)."""
        if self.num_probes is None or self.num_probes >= len(self.shards):
            return merge_neighbors([shard.query(queries, num_neighbors) for shard in self.shards], num_neighbors)
        asked = self._shards_to_ask(queries)
        trajectory_id = np.full((*asked.shape, num_neighbors), NO_TRAJECTORY, np.int64)
        distance = np.full(trajectory_id.shape, np.inf, np.float32)
        for s in np.unique(asked):
            query, place = np.nonzero(asked == s)
            part = self.shards[s].query(queries[query], num_neighbors)
            trajectory_id[query, place], distance[query, place] = part.trajectory_id, part.distance
        flat = (len(queries), asked.shape[1] * num_neighbors)
        return first_neighbors(trajectory_id.reshape(flat), distance.reshape(flat), num_neighbors)

    def _shards_to_ask(self, queries: np.ndarray) -> np.ndarray:
        """(q, num_probes) shard numbers."""
        product = queries @ self._centroids.T
        gap = (self._centroids * self._centroids).sum(axis=1) - 2 * product
        nearest = np.full((len(queries), len(self.shards)), np.inf, np.float32)
        for s in range(len(self.shards)):
            nearest[:, s] = gap[:, self._shard_of == s].min(axis=1)
        return np.argpartition(nearest, self.num_probes - 1, axis=1)[:, : self.num_probes]


def build_base(keys: np.ndarray, settings: IndexSettings, *, num_shards: int, num_threads: int) -> Base:
    """Returns keys as num_shards shards of whole k-means clusters, one after the other.

    keys: (n, d) float32 unit vectors, their row numbers are the ids.
    """
    if num_shards == 1:
        centroids, prototype = keys[:1], np.zeros(len(keys), int)
    else:
        sample = keys[:: -(-len(keys) // _MAX_PROTOTYPE_KEYS)]
        wanted = min(num_shards * _PROTOTYPES_PER_SHARD, max(num_shards, len(sample) // 8))
        centroids = fit_prototypes(sample, num_prototypes=wanted, seed=settings.seed)
        prototype = assign_prototypes(keys, centroids)
    shard_of = _pack(centroids, np.bincount(prototype, minlength=len(centroids)), num_shards)
    rows = [np.flatnonzero(shard_of[prototype] == s) for s in range(num_shards)]
    shards = []
    for mine in rows:
        shard = build_shard(
            keys[mine],
            mine,
            space="cosine",
            M=settings.M,
            ef_construction=settings.ef_construction,
            seed=settings.seed,
            num_threads=num_threads,
        )
        shard.ef_search = settings.ef_search
        shards.append(shard)
    return Base(shards, centroids, shard_of)


def _pack(centroids: np.ndarray, counts: np.ndarray, num_shards: int) -> np.ndarray:
    """Returns the shard of each centroid, (m,) int: near ones together, shards of nearly equal numbers of keys.

    The centroids are halved along their principal axis at the weighted median, again and again.
    """
    shard_of = np.zeros(len(centroids), dtype=int)
    to_split = [(np.arange(len(centroids)), 0, num_shards)]
    while to_split:
        members, first, count = to_split.pop()
        shard_of[members] = first
        if count == 1:
            continue
        left = count // 2
        spread = centroids[members] - centroids[members].mean(axis=0)
        axis = np.linalg.svd(spread.astype(np.float64), full_matrices=False)[2][0]
        members = members[np.argsort(spread @ axis, kind="stable")]
        share = np.cumsum(counts[members]) / counts[members].sum()
        cut = int(np.clip(np.searchsorted(share, left / count) + 1, left, len(members) - (count - left)))
        to_split += [(members[:cut], first, left), (members[cut:], first + left, count - left)]
    return shard_of
