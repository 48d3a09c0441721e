"""Which shards to merge: small ones with their like, never beyond a size."""

from __future__ import annotations

from collections.abc import Sequence

from rapid_dist.errors import SpecError


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
