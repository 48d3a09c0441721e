"""What private training and sampling ask of a knowledge base, whoever holds its shards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from rapid_dist.retrieval.merge import Neighbors


class TrajectorySearch(Protocol):
    """Search and look-up over one version of a knowledge base: in this process, or by a query service.

    Every call may carry many queries, and row i of the answer is a function of query i and the base alone: no
    answer depends on the other queries, on who asks, on the order of shards, or on how long a shard took.
    Ids that belong to private queries are private: no implementation logs, stores or names them in an error.
    """

    def query(self, queries: np.ndarray, *, num_neighbors: int) -> Neighbors:
        """The nearest trajectories of each query (q, d), ties to the smaller id, padded with -1."""

    def query_within(
        self,
        queries: np.ndarray,
        *,
        num_neighbors: int,
        column: str,
        allowed: Sequence[Collection[int]] | np.ndarray,
    ) -> Neighbors:
        """The exact nearest trajectories whose label or prototype is allowed for the query, over all shards."""

    def values_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """(n, *value_shape) float32 for (n,) ids. Raises ArtifactError for an unknown id or -1."""

    def labels_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """(n,) int32 public classes for (n,) ids. Raises ArtifactError for an unknown id or -1."""

    def prototypes_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """(n,) int32 prototypes for (n,) ids. Raises ArtifactError for an unknown id or -1."""

    def count_labels(self, num_prototypes: int, num_labels: int) -> np.ndarray:
        """(num_prototypes, num_labels) int64: how many trajectories have this prototype and public class."""
