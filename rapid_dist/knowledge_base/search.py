"""Search over the shards of a knowledge base: the interface, search in one process, a record's nearest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from rapid_dist.errors import ArtifactError, InputError, SpecError
from rapid_dist.knowledge_base.clusters import Router
from rapid_dist.knowledge_base.exact import check_ids, prepare_vectors, search_exact
from rapid_dist.knowledge_base.index import HnswShard
from rapid_dist.knowledge_base.neighbors import Neighbors, merge_into, merge_neighbors, no_neighbors


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


METHODS = ("hnsw", "exact")
COLUMNS = ("label", "prototype")


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenShard:
    """One shard in memory.

    keys: (n, d) float32; trajectory_id: (n,) int64; label: (n,) int32, the public class or -1;
    prototype: (n,) int32; value: (n, *value_shape) float16; index: over the same rows, None for exact search.
    Raises ArtifactError when the columns or the index do not belong together.
    """

    keys: np.ndarray
    trajectory_id: np.ndarray
    label: np.ndarray
    prototype: np.ndarray
    value: np.ndarray
    index: HnswShard | None = None

    def __post_init__(self):
        columns = (self.keys, self.trajectory_id, self.label, self.prototype, self.value)
        rows = [len(column) for column in columns]
        if len(set(rows)) != 1 or self.keys.ndim != 2:
            raise ArtifactError(f"columns have {rows} rows, keys {self.keys.shape}; expected one length")
        if self.index is None:
            return
        if self.index.dim != self.keys.shape[1] or not np.array_equal(
            self.index.trajectory_ids, np.sort(self.trajectory_id)
        ):
            raise ArtifactError("index and rows of a shard differ in ids or dim; build the shard again")

    def query(self, queries: np.ndarray, *, num_neighbors: int, space: str, method: str) -> Neighbors:
        """Returns the neighbours within this shard; queries: (q, d).

        Raises SpecError for an unknown method, or for hnsw without an index of this space.
        """
        if method not in METHODS:
            raise SpecError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
        if method == "exact":
            return search_exact(self.keys, self.trajectory_id, queries, num_neighbors=num_neighbors, space=space)
        if self.index is None or self.index.space != space:
            raise SpecError(f"method hnsw needs an index in space {space}; open it too or use exact")
        return self.index.query(queries, num_neighbors)

    def query_within(
        self,
        queries: np.ndarray,
        *,
        num_neighbors: int,
        space: str,
        column: str,
        allowed: Sequence[Collection[int]] | np.ndarray,
    ) -> Neighbors:
        """Returns the exact neighbours among the rows whose column is allowed for the query.

        queries: (q, d); column: label or prototype; allowed: a collection of values a query, or (q,) int for
        one value each. Queries that share a set are searched together; no matching row gives padding.
        Raises SpecError for another column, InputError when allowed does not have one entry a query.
        """
        if column not in COLUMNS:
            raise SpecError(f"column is {column!r}; expected one of {', '.join(COLUMNS)}")
        found = no_neighbors(len(queries), num_neighbors)
        queries = prepare_vectors(queries, space="l2", name="queries", dim=self.keys.shape[1])
        for values, members in _group_by_set(allowed, len(queries)).items():
            rows = np.flatnonzero(np.isin(getattr(self, column), sorted(values)))
            part = search_exact(
                self.keys[rows],
                self.trajectory_id[rows],
                queries[members],
                num_neighbors=num_neighbors,
                space=space,
            )
            found.trajectory_id[members], found.distance[members] = part.trajectory_id, part.distance
        return found

    def look_up(self, column: str, trajectory_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (m,) of those ids (n,) that lie in this shard, and the column's rows for them, (m, ...)."""
        place = np.searchsorted(self._sorted_ids, trajectory_ids)
        inside = np.flatnonzero(place < len(self._sorted_ids))
        here = inside[self._sorted_ids[place[inside]] == trajectory_ids[inside]]
        return here, getattr(self, column)[self._order[place[here]]]

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.trajectory_id)

    @cached_property
    def _sorted_ids(self) -> np.ndarray:
        return self.trajectory_id[self._order]

    def count_labels(self, num_prototypes: int, num_labels: int) -> np.ndarray:
        """(num_prototypes, num_labels) int64 rows with this prototype and public class, unlabelled ones left out."""
        counts = np.zeros((num_prototypes, num_labels), np.int64)
        known = self.label >= 0
        np.add.at(counts, (self.prototype[known], self.label[known]), 1)
        return counts


class KnowledgeBaseSearch:
    """All shards of a knowledge base, searched one after the other and merged.

    Exact results do not depend on how rows are split into shards. space: l2, cosine or ip; method: hnsw or
    exact; num_probes: with a router, query asks this many shards only (query_within always asks all).
    Raises SpecError for unknown settings or hnsw without indexes, ArtifactError when shards differ in shape or
    share a trajectory id, InputError without shards.
    """

    def __init__(
        self,
        shards: Sequence[OpenShard],
        *,
        space: str,
        method: str,
        router: Router | None = None,
        num_probes: int | None = None,
    ):
        if not shards:
            raise InputError("got no shards; expected at least one")
        shapes = {(shard.keys.shape[1], shard.value.shape[1:]) for shard in shards}
        if len(shapes) != 1:
            raise ArtifactError(f"shards have (dim, value shape) {sorted(shapes)}; expected one for all")
        self.shards = tuple(shards)
        self.space = space
        self.method = method
        self._router, self._num_probes = router, num_probes
        if num_probes is not None and (router is None or router.num_shards != len(self.shards)):
            raise SpecError(f"num_probes is {num_probes} but the base has no centroids of its shards; build it again")
        ids = np.concatenate([check_ids(s.trajectory_id, num_keys=len(s.keys)) for s in self.shards])
        ids.sort()
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if len(repeated):
            raise ArtifactError(f"trajectory id {repeated[0]} is in the base twice; expected unique ids")
        # A query of nothing raises what every query would raise: unknown settings, no index, non-finite keys.
        self.query(np.empty((0, self.dim), np.float32), num_neighbors=1)

    def __len__(self) -> int:
        return sum(len(shard.keys) for shard in self.shards)

    @property
    def dim(self) -> int:
        return self.shards[0].keys.shape[1]

    @property
    def value_shape(self) -> tuple[int, ...]:
        return self.shards[0].value.shape[1:]

    def query(self, queries: np.ndarray, *, num_neighbors: int) -> Neighbors:
        """Returns the nearest trajectories of each query, (q, d), over all shards or its num_probes nearest ones.

        Raises InputError for another dim or non-finite values, SpecError when num_neighbors < 1.
        """
        settings = {"num_neighbors": num_neighbors, "space": self.space, "method": self.method}
        if self._num_probes is None:
            return merge_neighbors([shard.query(queries, **settings) for shard in self.shards], num_neighbors)
        found = no_neighbors(len(queries), num_neighbors)
        asked = self._router.asked_of(queries, self._num_probes)
        for shard, rows in zip(self.shards, asked, strict=True):
            merge_into(found, rows, shard.query(queries[rows], **settings))
        return found

    def query_within(
        self,
        queries: np.ndarray,
        *,
        num_neighbors: int,
        column: str,
        allowed: Sequence[Collection[int]] | np.ndarray,
    ) -> Neighbors:
        """Returns the nearest trajectories whose label or prototype is allowed for the query, always exactly.

        Exact under either method, because restricted sets are small and a graph walks past them.
        Arguments and Raises as OpenShard.query_within.
        """
        parts = [
            shard.query_within(queries, num_neighbors=num_neighbors, space=self.space, column=column, allowed=allowed)
            for shard in self.shards
        ]
        return merge_neighbors(parts, num_neighbors)

    def count_labels(self, num_prototypes: int, num_labels: int) -> np.ndarray:
        """Returns (num_prototypes, num_labels) int64 trajectories with this prototype and public class."""
        return sum(shard.count_labels(num_prototypes, num_labels) for shard in self.shards)

    def values_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """Returns (n, *value_shape) float32 for (n,) ids. Raises ArtifactError for an unknown id or -1."""
        return self._gather("value", trajectory_ids, np.float32)

    def labels_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """Returns (n,) int32 public classes for (n,) ids. Raises ArtifactError for an unknown id or -1."""
        return self._gather("label", trajectory_ids, np.int32)

    def prototypes_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """Returns (n,) int32 prototypes for (n,) ids. Raises ArtifactError for an unknown id or -1."""
        return self._gather("prototype", trajectory_ids, np.int32)

    def _gather(self, column: str, trajectory_ids: np.ndarray, dtype: type) -> np.ndarray:
        return look_up_in_shards(
            trajectory_ids, dtype, lambda ids: (shard.look_up(column, ids) for shard in self.shards)
        )


def look_up_in_shards(
    trajectory_ids: np.ndarray,
    dtype: type,
    ask_fn: Callable[[np.ndarray], Iterable[tuple[np.ndarray, np.ndarray]]],
) -> np.ndarray:
    """Returns the rows of the ids (n,), (n, ...) in dtype. ask_fn: what OpenShard.look_up answers, of every shard.

    Raises InputError for ids of another shape, ArtifactError for an id that no shard has.
    """
    ids = np.asarray(trajectory_ids)
    if ids.ndim != 1:
        raise InputError(f"got ids of shape {ids.shape}; expected (n,)")
    is_known, gathered = np.zeros(len(ids), bool), None
    for here, rows in ask_fn(ids):
        if gathered is None:
            gathered = np.empty((len(ids), *rows.shape[1:]), dtype)
        is_known[here], gathered[here] = True, rows
    if not is_known.all():
        # Which id is not said: it may be the neighbour of a private record.
        raise ArtifactError(
            "a trajectory asked for is not in the knowledge base; -1 is padding, any other id is of another base"
        )
    return gathered


def _group_by_set(allowed: Sequence[Collection[int]] | np.ndarray, num_queries: int) -> dict[frozenset[int], list[int]]:
    """The query indices of each distinct allowed set, in order of appearance."""
    if isinstance(allowed, np.ndarray):
        if allowed.ndim != 1:
            raise InputError(f"allowed has shape {allowed.shape}; expected (q,), or a list of sets")
        allowed = [(value,) for value in allowed.tolist()]
    if len(allowed) != num_queries:
        raise InputError(f"got {len(allowed)} allowed sets for {num_queries} queries; expected one a query")
    groups: dict[frozenset[int], list[int]] = {}
    for i, values in enumerate(allowed):
        groups.setdefault(frozenset(values), []).append(i)
    return groups


def allowed_public_labels(label_map: Mapping[int, int], private_class: int) -> frozenset[int]:
    """Public classes that stand for a private class; empty means all of them."""
    return frozenset(public for public, private in label_map.items() if private == private_class)


def nearest_trajectories(
    keys: np.ndarray, label: np.ndarray, search: TrajectorySearch, label_map: Mapping[int, int]
) -> np.ndarray:
    """Trajectory id (n,) int64 nearest to each key (n, d) float32, among the public classes allowed for its label.

    label: (n,) private classes, -1 for none. Raises SpecError when a mapped public class has no trajectory.

    Guarantee: entry i is a function of key i, label i and the public base alone. The ids are private.
    """
    found = np.empty(len(keys), dtype=np.int64)
    for private_class in np.unique(label):
        rows = np.flatnonzero(label == private_class)
        allowed = allowed_public_labels(label_map, int(private_class))
        if allowed:
            nearest = search.query_within(keys[rows], num_neighbors=1, column="label", allowed=[allowed] * len(rows))
        else:
            nearest = search.query(keys[rows], num_neighbors=1)
        found[rows] = nearest.trajectory_id[:, 0]
    if (found < 0).any():
        raise SpecError(
            "knowledge_base.label_map names public classes that have no trajectory in the knowledge base; "
            "correct the map or add such images to data.public"
        )
    return found


def prototype_label_shares(search: TrajectorySearch, num_prototypes: int, num_labels: int) -> np.ndarray:
    """(num_prototypes, num_labels) shares of public classes within each prototype; rows of zeros where unlabelled."""
    table = search.count_labels(num_prototypes, num_labels).astype(np.float64)
    totals = table.sum(1, keepdims=True)
    return np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
