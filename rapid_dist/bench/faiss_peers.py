"""Two indexes of faiss-cpu as peers; faiss is optional and this module is the only one that imports it."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from rapid_dist.bench.settings import IndexSettings

MISSING_NOTE = "faiss is not installed; pip install 'rapid-dist[bench]' adds its rows"
_TRAINING_KEYS_PER_LIST = 50
_KEYS_PER_BLOCK = 16384


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
        for first in range(0, len(keys), _KEYS_PER_BLOCK):  # In blocks, so that Ctrl-C is heard in between.
            self._index.add(keys[first : first + _KEYS_PER_BLOCK])

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
