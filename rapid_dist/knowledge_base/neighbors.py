"""Nearest trajectories: how answers of shards are merged, and how many of the true ones were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rapid_dist.errors import InputError, SpecError
from rapid_dist.seeding import make_rng

NO_TRAJECTORY = -1


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest trajectories of each query, nearest first.

    trajectory_id: (q, k) int64, -1 where there are fewer than k; distance: (q, k) float32, inf there.
    Raises InputError when the shapes are not the same (q, k).
    """

    trajectory_id: np.ndarray
    distance: np.ndarray

    def __post_init__(self):
        ids = np.asarray(self.trajectory_id, dtype=np.int64)
        distance = np.asarray(self.distance, dtype=np.float32)
        if ids.ndim != 2 or ids.shape != distance.shape:
            raise InputError(f"got ids {ids.shape} and distances {distance.shape}; expected one shape (q, k)")
        object.__setattr__(self, "trajectory_id", ids)
        object.__setattr__(self, "distance", distance)

    def __len__(self) -> int:
        return len(self.trajectory_id)


def no_neighbors(num_queries: int, num_neighbors: int) -> Neighbors:
    """Returns padding only: what a search over nothing finds. Raises SpecError when num_neighbors < 1."""
    if num_neighbors < 1:
        raise SpecError(f"num_neighbors is {num_neighbors}; expected at least 1")
    shape = (num_queries, num_neighbors)
    return Neighbors(np.full(shape, NO_TRAJECTORY, np.int64), np.full(shape, np.inf, np.float32))


def select_neighbors(
    query: np.ndarray,
    trajectory_id: np.ndarray,
    distance: np.ndarray,
    *,
    num_queries: int,
    num_neighbors: int,
) -> Neighbors:
    """Returns each query's first k candidates by (distance, trajectory_id), each trajectory at most once.

    query: (p,) int in [0, num_queries); trajectory_id: (p,) int64, negative ones are padding and dropped;
    distance: (p,) float32. The result does not depend on the order of the candidates.
    Raises SpecError when num_neighbors < 1.
    """
    found = no_neighbors(num_queries, num_neighbors)
    real = trajectory_id >= 0
    query, trajectory_id, distance = query[real], trajectory_id[real], distance[real]

    order = np.lexsort((distance, trajectory_id, query))
    query, trajectory_id, distance = query[order], trajectory_id[order], distance[order]
    is_first = np.ones(len(query), dtype=bool)
    is_first[1:] = (query[1:] != query[:-1]) | (trajectory_id[1:] != trajectory_id[:-1])
    query, trajectory_id, distance = query[is_first], trajectory_id[is_first], distance[is_first]

    order = np.lexsort((trajectory_id, distance, query))
    query, trajectory_id, distance = query[order], trajectory_id[order], distance[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query, side="left")
    kept = rank < num_neighbors
    found.trajectory_id[query[kept], rank[kept]] = trajectory_id[kept]
    found.distance[query[kept], rank[kept]] = distance[kept]
    return found


def first_neighbors(trajectory_id: np.ndarray, distance: np.ndarray, num_neighbors: int) -> Neighbors:
    """Returns each row's first k candidates by (distance, trajectory_id), each trajectory at most once.

    It is select_neighbors for rows of equal length, in less time: only the rows where equal distances or repeats
    reach the first k are left to it. A repeat further back changes nothing.
    trajectory_id: (q, m) int64, negative ones are padding; distance: (q, m) float32.
    Raises SpecError when num_neighbors < 1.
    """
    found = no_neighbors(len(trajectory_id), num_neighbors)
    width = min(num_neighbors, trajectory_id.shape[1])
    ids, near = trajectory_id, np.where(trajectory_id < 0, np.float32(np.inf), distance)
    if not (near[:, 1:] >= near[:, :-1]).all():
        order = np.argsort(near, axis=1)[:, : width + 1]
        ids, near = np.take_along_axis(ids, order, axis=1), np.take_along_axis(near, order, axis=1)
    found.trajectory_id[:, :width] = np.maximum(ids[:, :width], NO_TRAJECTORY)
    found.distance[:, :width] = near[:, :width]
    ascending = np.sort(ids[:, :width], axis=1)
    is_settled = (near[:, 1 : width + 1] > near[:, : min(width, near.shape[1] - 1)]).all(axis=1)
    is_settled &= (ascending[:, 1:] > ascending[:, :-1]).all(axis=1)
    rows = np.flatnonzero(~is_settled)
    if len(rows):
        exact = select_neighbors(
            np.repeat(np.arange(len(rows)), trajectory_id.shape[1]),
            trajectory_id[rows].ravel(),
            distance[rows].ravel(),
            num_queries=len(rows),
            num_neighbors=num_neighbors,
        )
        found.trajectory_id[rows], found.distance[rows] = exact.trajectory_id, exact.distance
    return found


def merge_neighbors(parts: Sequence[Neighbors], num_neighbors: int) -> Neighbors:
    """Returns the k nearest over all parts, by (distance, trajectory_id), without padding and duplicates.

    Associative and commutative when every merge keeps the same number, so shards may be merged in any
    tree. parts: each (q, k_i) for the same queries in the same order.
    Raises InputError without parts or when they differ in q, SpecError when num_neighbors < 1.
    """
    num_queries = {len(part) for part in parts}
    if len(num_queries) != 1:
        raise InputError(f"got parts for {sorted(num_queries)} queries; expected parts for the same queries")
    return first_neighbors(
        np.concatenate([part.trajectory_id for part in parts], axis=1),
        np.concatenate([part.distance for part in parts], axis=1),
        num_neighbors,
    )


def recall_at(found: Neighbors, truth: Neighbors, k: int) -> float:
    """Returns the share of the true first k neighbours that are among the found first k, over all queries.

    Padding in truth does not count; with nothing to find the recall is 1.
    Raises InputError when the queries differ or truth is narrower than k, SpecError when k < 1.
    """
    if k < 1:
        raise SpecError(f"k is {k}; expected at least 1")
    if len(found) != len(truth) or truth.trajectory_id.shape[1] < k:
        raise InputError(
            f"got found {found.trajectory_id.shape} and truth {truth.trajectory_id.shape}; "
            f"expected the same queries and at least {k} true neighbours each"
        )
    true_ids = truth.trajectory_id[:, :k]
    is_real = true_ids >= 0
    is_found = (true_ids[:, :, None] == found.trajectory_id[:, None, :k]).any(axis=2)
    return float(is_found[is_real].mean()) if is_real.any() else 1.0


def draw_nearby_keys(keys: np.ndarray, *, seed: int) -> np.ndarray:
    """Queries to measure recall with: keys moved by Gaussians of standard deviation 0.02. keys: (n, d) float32."""
    return (keys + make_rng(seed, "recall").normal(0, 0.02, keys.shape)).astype(np.float32)


def probe_counts(num_shards: int) -> list[int]:
    """1, 2, 4, ... below num_shards, and num_shards itself, which is full fan-out."""
    return sorted({min(2**i, num_shards) for i in range(num_shards.bit_length() + 1)})


class RecallTally:
    """Merges the found and the true neighbours of the same queries over shards, for several numbers of probes.

    order: (q, num_shards) from Router.order. Holds q * num_neighbors rows a number of probes, not the shards'.
    """

    def __init__(self, order: np.ndarray, *, num_neighbors: int):
        self._order, self._k = order, num_neighbors
        self._truth = no_neighbors(len(order), num_neighbors)
        counts = probe_counts(order.shape[1])
        self._found = {count: no_neighbors(len(order), num_neighbors) for count in counts}

    def add(self, position: int, *, found: Neighbors, truth: Neighbors) -> None:
        """Takes the answers of the shard at this position: by its index, and exact; all queries, each (q, k)."""
        self._truth = merge_neighbors([self._truth, truth], self._k)
        for count, so_far in self._found.items():
            rows = np.flatnonzero((self._order[:, :count] == position).any(axis=1))
            merge_into(so_far, rows, Neighbors(found.trajectory_id[rows], found.distance[rows]))

    def facts(self) -> dict[str, object]:
        """recall_at_1 and recall_at_k of full fan-out; `routing`: the same for each number of probes."""
        by_count = {
            str(count): {f"recall_at_{k}": round(recall_at(found, self._truth, k), 6) for k in sorted({1, self._k})}
            for count, found in self._found.items()
        }
        return {**by_count[str(self._order.shape[1])], "routing": by_count}


def merge_into(so_far: Neighbors, rows: np.ndarray, part: Neighbors) -> None:
    """Merges what a part (r, k') found for the queries at rows (r,) into so_far (q, k), in place."""
    if len(rows) == 0:
        return
    mine = Neighbors(so_far.trajectory_id[rows], so_far.distance[rows])
    best = merge_neighbors([mine, part], so_far.trajectory_id.shape[1])
    so_far.trajectory_id[rows], so_far.distance[rows] = best.trajectory_id, best.distance


def thinned(rows: np.ndarray, count: int) -> np.ndarray:
    """At most count of the rows (n, ...), evenly spaced."""
    every = max(1, -(-len(rows) // max(1, count)))
    return rows[::every][:count]
