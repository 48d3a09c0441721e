"""What a run comes to: the numbers people ask for, as JSON and as a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rapid_dist.bench.keys import CLUSTERED
from rapid_dist.bench.rows import Row, best_base
from rapid_dist.bench.settings import BenchSettings


def summarize(rows: Sequence[Row], settings: BenchSettings) -> dict[str, Any]:
    """Returns the run as plain values: the best layout of the largest clustered base, the settings, all rows."""
    best = best_base(rows, data=CLUSTERED, keys=settings.keys)
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
    }


def summary_lines(rows: Sequence[Row], settings: BenchSettings) -> list[str]:
    """Returns the lines below the table."""
    best = best_base(rows, data=CLUSTERED, keys=settings.keys)
    index = settings.index
    return [
        f"{best.keys:,} clustered keys of {settings.dim} dims, best layout: {best.layout}",
        f"recall@1 {best.recall_at_1:.4f}, recall@{settings.num_neighbors} {best.recall_at_k:.4f}; "
        f"{best.over_brute_force:.1f} times brute force, {best.over_plain:.2f} times plain hnswlib, a core",
        f"M {index.M}, ef_construction {index.ef_construction}, ef_search {index.ef_search}, "
        f"{settings.num_neighbors} neighbours, {settings.num_queries} queries a batch, {settings.rounds} rounds; "
        "build/s and query/s are per second of CPU time of one core",
    ]
