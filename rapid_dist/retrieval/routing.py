"""Which shards a query goes to: those whose public centroids are nearest to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rapid_dist.errors import InputError, SpecError
from rapid_dist.retrieval.exact import prepare_vectors, search_exact
from rapid_dist.retrieval.prototypes import fit_prototypes

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
