"""What is compared: each is made from unit keys, and answers queries with the ids of their nearest keys by cosine.

A query runs on one core; building may use several threads.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

import hnswlib
import numpy as np

from rapid_dist.bench.settings import IndexSettings
from rapid_dist.knowledge_base.clusters import Router, cluster_shards, fit_clusters, fit_shard_centroids
from rapid_dist.knowledge_base.index import build_shard
from rapid_dist.knowledge_base.neighbors import NO_TRAJECTORY, thinned
from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard

MISSING_NOTE = "faiss is not installed; pip install 'rapid-dist[bench]' adds its rows"
_TRAINING_KEYS_PER_LIST = 50
_FAISS_KEYS_PER_BLOCK = 16384


def is_available() -> bool:
    """Whether faiss can be imported."""
    return importlib.util.find_spec("faiss") is not None


class FaissHnsw:
    """faiss's HNSW over float32 vectors, with the M and ef of ours."""

    def __init__(self, keys: np.ndarray, settings: IndexSettings, *, num_threads: int):
        faiss = _faiss(num_threads)
        self._index = faiss.IndexHNSWFlat(keys.shape[1], settings.M)
        self._index.hnsw.efConstruction = settings.ef_construction
        self._index.hnsw.efSearch = settings.ef_search
        for first in range(0, len(keys), _FAISS_KEYS_PER_BLOCK):  # In blocks, so that Ctrl-C is heard in between.
            self._index.add(keys[first : first + _FAISS_KEYS_PER_BLOCK])

    def ids(self, queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        """As Contender; l2 over unit vectors orders as cosine does."""
        return _search(self._index, queries, num_neighbors)


class FaissIvf:
    """faiss's inverted lists: k-means cells, exact inside the num_probes nearest of them; 4 sqrt(n) cells."""

    def __init__(self, keys: np.ndarray, settings: IndexSettings, *, num_threads: int):
        faiss = _faiss(num_threads)
        num_lists = max(1, min(int(4 * len(keys) ** 0.5), len(keys) // _TRAINING_KEYS_PER_LIST))
        self._quantizer = faiss.IndexFlatL2(keys.shape[1])
        self._index = faiss.IndexIVFFlat(self._quantizer, keys.shape[1], num_lists)
        self._index.cp.seed = settings.seed
        sample = keys[:: max(1, len(keys) // (num_lists * _TRAINING_KEYS_PER_LIST))]
        self._index.train(np.ascontiguousarray(sample))
        self._index.add(keys)

    @property
    def num_lists(self) -> int:
        """Cells in all."""
        return self._index.nlist

    @property
    def num_probes(self) -> int:
        """Cells looked into for a query."""
        return self._index.nprobe

    def choose_probes(self, queries: np.ndarray, true_ids: np.ndarray, *, recall: float) -> None:
        """Sets num_probes to the smallest power of two whose recall@1 reaches the one given, or to all cells.

        true_ids: (q,) int64 nearest key of each query.
        """
        self._index.nprobe = 1
        while self._index.nprobe < self._index.nlist:
            if (self.ids(queries, 1)[:, 0] == true_ids).mean() >= recall:
                return
            self._index.nprobe = min(2 * self._index.nprobe, self._index.nlist)

    def ids(self, queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        """As Contender."""
        return _search(self._index, queries, num_neighbors)


def _faiss(num_threads: int) -> Any:
    import faiss

    faiss.omp_set_num_threads(num_threads)
    return faiss


def _search(index: Any, queries: np.ndarray, num_neighbors: int) -> np.ndarray:
    _faiss(1)
    return index.search(queries, num_neighbors)[1].astype(np.int64)


_KEYS_PER_BLOCK = 16384
_QUERIES_PER_BLOCK = 256
_MAX_SAMPLE = 100_000  # as many keys as a build looks at to place its clusters


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
    """Our own knowledge base in this process, all its shards asked or the num_probes nearest of each query."""

    def __init__(self, shards: Sequence[OpenShard], router: Router, num_probes: int | None = None):
        self.shards, self._router = tuple(shards), router
        self._search = KnowledgeBaseSearch(
            self.shards, space="cosine", method="hnsw", router=router, num_probes=num_probes
        )

    @property
    def file_bytes(self) -> int:
        """Length of the index files of all shards."""
        return sum(shard.index.file_bytes for shard in self.shards)

    def routed(self, num_probes: int) -> Base:
        """The same shards, num_probes of them asked a query; as many as there are is full fan-out."""
        return Base(self.shards, self._router, num_probes if num_probes < len(self.shards) else None)

    def ids(self, queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        """As Contender."""
        return self._search.query(queries, num_neighbors=num_neighbors).trajectory_id


def build_base(keys: np.ndarray, settings: IndexSettings, *, num_shards: int, num_threads: int) -> Base:
    """Returns keys as num_shards shards of like keys (assignment "cluster"), fewer where clusters leave some empty.

    keys: (n, d) float32 unit vectors, their row numbers are the ids.
    """
    shard_of = np.zeros(len(keys), np.int64)
    if num_shards > 1:
        clusters = fit_clusters(thinned(keys, _MAX_SAMPLE), num_shards=num_shards, space="cosine", seed=settings.seed)
        for first in range(0, len(keys), _KEYS_PER_BLOCK):
            block = slice(first, first + _KEYS_PER_BLOCK)
            shard_of[block] = cluster_shards(keys[block], clusters, space="cosine")
    rows = [np.flatnonzero(shard_of == s) for s in np.unique(shard_of)]
    shards = [_build_shard(keys[mine], mine, settings, num_threads) for mine in rows]
    centroids = [fit_shard_centroids(shard.keys, space="cosine", seed=settings.seed) for shard in shards]
    return Base(shards, Router(centroids, space="cosine"))


def _build_shard(keys: np.ndarray, ids: np.ndarray, settings: IndexSettings, num_threads: int) -> OpenShard:
    index = build_shard(
        keys,
        ids,
        space="cosine",
        M=settings.M,
        ef_construction=settings.ef_construction,
        seed=settings.seed,
        num_threads=num_threads,
    )
    index.ef_search = settings.ef_search
    none = np.zeros(len(keys), np.int32)
    return OpenShard(
        keys=keys,
        trajectory_id=ids,
        label=none,
        prototype=none,
        value=np.zeros((len(keys), 1), np.float16),
        index=index,
    )
