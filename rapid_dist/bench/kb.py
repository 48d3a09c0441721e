"""One run of the benchmark: every base beside its peers, on the same keys, the same queries and one core."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from rapid_dist.bench import contenders as faiss_peers
from rapid_dist.bench.contenders import Base, BruteForce, Contender, PlainHnsw, build_base
from rapid_dist.bench.settings import (
    BASE,
    BRUTE_FORCE,
    CLUSTERED,
    FAISS_HNSW,
    FAISS_IVF,
    GAUSSIAN,
    PLAIN,
    RECALL_BAR,
    BenchSettings,
    Row,
    draw_keys,
)
from rapid_dist.bench.timing import Cost, measured, ratio, take_turns
from rapid_dist.knowledge_base.exact import search_exact
from rapid_dist.knowledge_base.neighbors import Neighbors, recall_at
from rapid_dist.telemetry import Say, headed

# The product with a million keys takes milliseconds a query; this many at once use BLAS well.
_BRUTE_QUERIES = 128


def run_kb_bench(settings: BenchSettings, *, say_fn: Say) -> Iterator[Row]:
    """Yields the rows of all sizes as they are measured, the largest clustered size last.

    Queries run on one core: BLAS and faiss are held to one thread, and rates are by the CPU time of the process.
    say_fn is told what begins.
    """
    trials = [(CLUSTERED, size) for size in settings.all_sizes]
    if settings.gaussian_keys:
        trials.insert(len(trials) - 1, (GAUSSIAN, settings.gaussian_keys))
    with threadpool_limits(1):
        for data, size in trials:
            yield from _run_size(data, size, settings, say_fn)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entrant:
    """A contender with its name, layout and the cost of building it."""

    method: str
    contender: Contender
    cost: Cost
    num_shards: int = 0
    num_probes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """Keys of one size with queries, their true neighbours, and the two peers that take turns with everybody."""

    data: str
    size: int
    queries: np.ndarray
    truth: Neighbors
    settings: BenchSettings
    brute: _Entrant
    plain: _Entrant

    def rows(self, entrants: Sequence[_Entrant]) -> Iterator[Row]:
        """Yields the entrants' rows, measured in turns with the peers."""
        everyone = [self.brute, self.plain, *(e for e in entrants if e not in (self.brute, self.plain))]
        rates = dict(
            zip(everyone, take_turns([self._turn(e) for e in everyone], rounds=self.settings.rounds), strict=True)
        )
        for entrant in entrants:
            found = entrant.contender.ids(self.queries, self.settings.num_neighbors)
            neighbors = Neighbors(found, np.zeros(found.shape))
            mine = rates[entrant]
            yield Row(
                data=self.data,
                keys=self.size,
                method=entrant.method,
                num_shards=entrant.num_shards,
                num_probes=entrant.num_probes,
                build_seconds=entrant.cost.seconds,
                build_rate=self.size / entrant.cost.core_seconds if entrant.cost.core_seconds else 0.0,
                peak_bytes=entrant.cost.peak_bytes,
                memory_bytes=entrant.cost.kept_bytes,
                disk_bytes=entrant.disk_bytes,
                query_rate=mine.median_per_core(),
                clock_query_rate=mine.median_on_clock(),
                recall_at_1=recall_at(neighbors, self.truth, 1),
                recall_at_k=recall_at(neighbors, self.truth, self.settings.num_neighbors),
                over_brute_force=ratio(mine, rates[self.brute]),
                over_plain=ratio(mine, rates[self.plain]),
            )

    def _turn(self, entrant: _Entrant) -> Callable[[], int]:
        queries = self.queries[:_BRUTE_QUERIES] if entrant is self.brute else self.queries

        def answer() -> int:
            return len(entrant.contender.ids(queries, self.settings.num_neighbors))

        return answer


def _run_size(data: str, size: int, settings: BenchSettings, say_fn: Say) -> Iterator[Row]:
    def begin(what: str) -> None:
        say_fn(headed(f"{size:,} keys", f"{data}: {what}"))

    begin("keys and their true neighbours")
    dim, seed, k = settings.dim, settings.index.seed, settings.num_neighbors
    keys = draw_keys(data, size, dim=dim, seed=seed, role="keys")
    queries = draw_keys(data, settings.num_queries, dim=dim, seed=seed, role="queries")
    truth = search_exact(keys, np.arange(size), queries, num_neighbors=k, space="cosine")

    def built(name: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Cost]:
        begin(name)
        with measured() as cost:
            contender = make(keys, *args, **kwargs)
        with measured() as first_answer:
            contender.ids(queries[:_BRUTE_QUERIES], k)
        return contender, replace(cost, peak_bytes=max(cost.peak_bytes, cost.kept_bytes + first_answer.peak_bytes))

    threads = {"num_threads": settings.num_threads}
    brute, brute_cost = built(BRUTE_FORCE, BruteForce)
    plain, plain_cost = built(PLAIN, PlainHnsw, settings.index, **threads)
    trial = _Trial(
        data=data,
        size=size,
        queries=queries,
        truth=truth,
        settings=settings,
        brute=_Entrant(method=BRUTE_FORCE, contender=brute, cost=replace(brute_cost, seconds=0.0, core_seconds=0.0)),
        plain=_Entrant(method=PLAIN, contender=plain, cost=plain_cost),
    )
    yield from trial.rows([trial.brute, trial.plain])
    # The worst case is there for what it does to a graph; how it is sharded says nothing about keys of images.
    for num_shards in settings.shards if data == CLUSTERED else settings.shards[:1]:
        base, cost = built(f"base of {num_shards} shards", build_base, settings.index, num_shards=num_shards, **threads)
        yield from trial.rows(_layouts(base, cost, settings))
        del base
        gc.collect()
    if data != CLUSTERED:
        return
    if not faiss_peers.is_available():
        say_fn(faiss_peers.MISSING_NOTE)
        return
    index, cost = built(FAISS_IVF, faiss_peers.FaissIvf, settings.index, **threads)
    index.choose_probes(queries, truth.trajectory_id[:, 0], recall=RECALL_BAR)
    cells = {"num_shards": index.num_lists, "num_probes": index.num_probes}
    yield from trial.rows([_Entrant(method=FAISS_IVF, contender=index, cost=cost, **cells)])
    del index
    index, cost = built(FAISS_HNSW, faiss_peers.FaissHnsw, settings.index, **threads)
    yield from trial.rows([_Entrant(method=FAISS_HNSW, contender=index, cost=cost)])


def _layouts(base: Base, cost: Cost, settings: BenchSettings) -> list[_Entrant]:
    """All shards asked, and each num_probes that asks fewer."""
    num_shards = len(base.shards)
    probes = [num_shards, *(p for p in settings.num_probes if p < num_shards)]
    return [
        _Entrant(
            method=BASE,
            contender=base.routed(p),
            cost=cost,
            num_shards=num_shards,
            num_probes=p,
            disk_bytes=base.file_bytes,
        )
        for p in probes
    ]
