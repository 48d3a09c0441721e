"""Recall of an index and of routing, from the answers of one shard at a time."""

from __future__ import annotations

import numpy as np

from rapid_dist.retrieval.merge import Neighbors, merge_neighbors, no_neighbors, recall_at


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
