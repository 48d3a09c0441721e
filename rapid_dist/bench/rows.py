"""The table of a run: what a line holds, how it reads, and the few numbers that sum it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BASE, BRUTE_FORCE, PLAIN, FAISS_HNSW, FAISS_IVF = "base", "brute force", "plain hnswlib", "faiss HNSW", "faiss IVF"
RECALL_BAR = 0.99

HEADER = (
    f"{'data':<28} {'keys':>9} {'method':<14} {'layout':<20} {'build':>7} {'build/s':>8} {'peak MB':>8} {'kept MB':>8} "
    f"{'query/s':>8} {'x brute':>8} {'x plain':>8} {'rec@1':>6} {'rec@k':>6}"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line.

    data: how the keys are distributed; keys: in all; method, num_shards, num_probes: what was asked (num_probes
    equal to num_shards is full fan-out; cells for faiss IVF; 0 where it does not apply); build_seconds on the clock;
    build_rate: keys a core second; peak_bytes: highest while building, above what was there, and memory_bytes: kept;
    disk_bytes: of the files, 0 where there are none; query_rate: queries a core second; clock_query_rate: a second;
    recall_at_1, recall_at_k; over_brute_force, over_plain: median over rounds of the quotient of query rates a core.
    """

    data: str
    keys: int
    method: str
    num_shards: int = 0
    num_probes: int = 0
    build_seconds: float = 0.0
    build_rate: float = 0.0
    peak_bytes: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    query_rate: float
    clock_query_rate: float
    recall_at_1: float
    recall_at_k: float
    over_brute_force: float
    over_plain: float

    @property
    def layout(self) -> str:
        """How the method is laid out, in words; empty where there is nothing to say."""
        if self.method == FAISS_IVF:
            return f"{self.num_probes} of {self.num_shards} cells"
        if self.method != BASE:
            return ""
        if self.num_shards == 1:
            return "1 shard"
        if self.num_probes == self.num_shards:
            return f"{self.num_shards} shards, all"
        return f"{self.num_probes} of {self.num_shards} shards"

    def line(self) -> str:
        """The row under HEADER."""
        build = f"{self.build_seconds:>6.1f}s {self.build_rate:>8,.0f}" if self.build_rate else f"{'':>7} {'':>8}"
        return (
            f"{self.data:<28} {self.keys:>9,} {self.method:<14} {self.layout:<20} {build} "
            f"{self.peak_bytes / 1e6:>8,.0f} {self.memory_bytes / 1e6:>8,.0f} {self.query_rate:>8,.0f} "
            f"{self.over_brute_force:>8.2f} {self.over_plain:>8.2f} {self.recall_at_1:>6.3f} {self.recall_at_k:>6.3f}"
        )


def best_base(rows: Sequence[Row], *, data: str, keys: int) -> Row:
    """Returns the base's fastest layout with recall@1 of RECALL_BAR, or the one of highest recall when none has it."""
    ours = [row for row in rows if (row.data, row.keys, row.method) == (data, keys, BASE)]
    good = [row for row in ours if row.recall_at_1 >= RECALL_BAR]
    if good:
        return max(good, key=lambda row: row.over_plain)
    return max(ours, key=lambda row: row.recall_at_1)
