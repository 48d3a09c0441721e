"""A finished knowledge base opened by its folder alone, to ask for neighbours from Python."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapid_dist import layout
from rapid_dist.knowledge_base.files import BUILD, open_knowledge_base
from rapid_dist.knowledge_base.search import KnowledgeBaseSearch
from rapid_dist.knowledge_base.versions import version_of
from rapid_dist.specs import KnowledgeBaseSpec
from rapid_dist.storage.manifest import MANIFEST, Manifest, open_artifact
from rapid_dist.storage.store import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryResult:
    """The k nearest trajectories of each of q queries, nearest first.

    Attributes:
        ids: (q, k) int64, -1 where the base has fewer than k trajectories.
        distances: (q, k) float32 in the space of the base, infinite there.
        labels: (q, k) int32, the public class or -1.
        values: (q, k, *value_shape) float32, the latents at split_step; NaN there.
    """

    ids: np.ndarray
    distances: np.ndarray
    labels: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class KnowledgeBase:
    """One version of a knowledge base, in memory. Made by open_base.

    Attributes:
        uri: Its folder.
        version: 1 for a fresh build, one more for every append and compaction.
        space: l2, cosine or ip.
    """

    def __init__(self, store: Store, manifest: Manifest, search: KnowledgeBaseSearch):
        self.uri, self.version, self.space = store.uri, version_of(manifest), search.space
        self._search = search

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self._search)

    def __repr__(self) -> str:
        return f"KnowledgeBase({len(self)} trajectories of {self.dim} numbers in {self.space}, {self.uri!r})"

    @property
    def dim(self) -> int:
        """Numbers of a feature."""
        return self._search.dim

    @property
    def value_shape(self) -> tuple[int, ...]:
        """The shape of a latent at split_step."""
        return self._search.value_shape

    def query(self, features: np.ndarray, *, num_neighbors: int = 10) -> QueryResult:
        """Finds the nearest trajectories of each feature.

        Args:
            features: (q, dim) numbers, or (dim,) for one query; finite.
            num_neighbors: How many to find, at least 1.

        Returns:
            ids, distances, labels and values of the neighbours, nearest first; q is 1 for one feature.

        Raises:
            InputError: The features have another number of dimensions, or are not finite.
            SpecError: num_neighbors is below 1.
        """
        queries = np.asarray(features, dtype=np.float32)
        if queries.ndim == 1:
            queries = queries[None]
        found = self._search.query(queries, num_neighbors=num_neighbors)
        is_real = found.trajectory_id >= 0
        known = found.trajectory_id[is_real]
        labels = np.full(found.trajectory_id.shape, -1, np.int32)
        labels[is_real] = self._search.labels_of(known)
        values = np.full((*found.trajectory_id.shape, *self.value_shape), np.nan, np.float32)
        values[is_real] = self._search.values_of(known)
        return QueryResult(ids=found.trajectory_id, distances=found.distance, labels=labels, values=values)


def open_base(
    uri: str | os.PathLike[str] | Store, *, method: str = "hnsw", num_probes: int | None = None
) -> KnowledgeBase:
    """Opens a finished knowledge base in this process; every file is checked against its digest.

    Args:
        uri: Folder or s3:// prefix of the base, or of the run that it belongs to.
        method: hnsw searches the graphs, exact compares with every trajectory.
        num_probes: How many shards a query asks, the nearest ones; None asks all.

    Raises:
        ArtifactError: There is no finished base, or a file is damaged.
        SpecError: A setting is unknown or out of range.
    """
    store, manifest = find_base(uri)
    settings: dict[str, Any] = {"method": method, "num_probes": num_probes}
    spec = KnowledgeBaseSpec(space=manifest.spec["knowledge_base"]["space"], **settings)
    return KnowledgeBase(store, manifest, open_knowledge_base(spec, store, manifest))


def find_base(uri: str | os.PathLike[str] | Store) -> tuple[Store, Manifest]:
    """Returns the store and the newest version of a base, given its folder or its run's. Raises ArtifactError."""
    store = uri if isinstance(uri, Store) else Store(uri)
    inside = store.child(layout.KNOWLEDGE_BASE)
    store = inside if inside.exists(MANIFEST) else store
    return store, open_artifact(store, stage=BUILD, privacy_classes=("public",))
