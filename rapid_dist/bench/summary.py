"""What a run comes to: the numbers people ask for, as JSON and as a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rapid_dist.bench.keys import CLUSTERED
from rapid_dist.bench.projection import MeasuredShard, Projection, project, projection_lines
from rapid_dist.bench.rows import BASE, RECALL_BAR, Row, best_base
from rapid_dist.bench.settings import BenchSettings


def measured_shard(rows: Sequence[Row], settings: BenchSettings) -> MeasuredShard:
    """Returns the constants of one shard: the largest clustered base that is a single shard, else the best layout.

    Memory is at least the file's, where a small base hides in memory that was free already.
    """
    one = [row for row in rows if (row.data, row.method, row.num_shards) == (CLUSTERED, BASE, 1)]
    row = max(one, key=lambda r: r.keys) if one else best_base(rows, data=CLUSTERED, keys=settings.keys)
    return MeasuredShard(
        keys=row.keys // row.num_shards,
        build_rate=row.build_rate,
        query_rate=row.query_rate * row.num_probes,
        memory_bytes_per_key=max(row.memory_bytes, row.disk_bytes) / row.keys,
        disk_bytes_per_key=row.disk_bytes / row.keys,
    )


def probes_needed(rows: Sequence[Row], settings: BenchSettings) -> int:
    """Returns the fewest probes with recall@1 of RECALL_BAR in the largest base with the most shards, else all.

    Many more shards may need more probes: the boundary of a cluster is nearer to its keys when it is smaller.
    """
    ours = [row for row in rows if (row.data, row.keys, row.method) == (CLUSTERED, settings.keys, BASE)]
    most = max(row.num_shards for row in ours)
    good = [row.num_probes for row in ours if row.num_shards == most and row.recall_at_1 >= RECALL_BAR]
    return min(good, default=most)


def projection_of(rows: Sequence[Row], settings: BenchSettings) -> Projection | None:
    """Returns the cost of the trajectories that the settings ask for, None where they do not."""
    if not settings.project_keys:
        return None
    return project(
        measured_shard(rows, settings),
        num_keys=settings.project_keys,
        num_cores=settings.project_cores,
        num_probes=probes_needed(rows, settings),
    )


def summarize(rows: Sequence[Row], settings: BenchSettings) -> dict[str, Any]:
    """Returns the run as plain values: the best layout of the largest clustered base, the settings, all rows."""
    best = best_base(rows, data=CLUSTERED, keys=settings.keys)
    projection = projection_of(rows, settings)
    return {
        "keys": best.keys,
        "dim": settings.dim,
        "layout": best.layout,
        "recall_at_1": best.recall_at_1,
        f"recall_at_{settings.num_neighbors}": best.recall_at_k,
        "speedup_over_brute_force": best.over_brute_force,
        "rate_over_plain_hnswlib": best.over_plain,
        "query_rate_per_core": best.query_rate,
        "build_rate_per_core": best.build_rate,
        "peak_memory_bytes": best.peak_bytes,
        "settings": asdict(settings),
        "rows": [{**asdict(row), "layout": row.layout} for row in rows],
        "projection": asdict(projection) if projection else None,
    }


def summary_lines(rows: Sequence[Row], settings: BenchSettings) -> list[str]:
    """Returns the lines below the table."""
    best = best_base(rows, data=CLUSTERED, keys=settings.keys)
    index = settings.index
    lines = [
        f"{best.keys:,} clustered keys of {settings.dim} dims, best layout: {best.layout}",
        f"recall@1 {best.recall_at_1:.4f}, recall@{settings.num_neighbors} {best.recall_at_k:.4f}; "
        f"{best.over_brute_force:.1f} times brute force, {best.over_plain:.2f} times plain hnswlib, a core",
        f"M {index.M}, ef_construction {index.ef_construction}, ef_search {index.ef_search}, "
        f"{settings.num_neighbors} neighbours, {settings.num_queries} queries a batch, {settings.rounds} rounds; "
        "build/s and query/s are per second of CPU time of one core",
    ]
    projection = projection_of(rows, settings)
    if projection is not None:
        lines += ["", *projection_lines(projection, measured_shard(rows, settings))]
        lines.append(
            f"{projection.num_probes} shards a routed query is what recall@1 of {RECALL_BAR} needed in this run; with "
            "many more shards it may need more"
        )
    return lines
