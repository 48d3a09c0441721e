"""A query service: one or more Ray actors hold each shard, and clients ask them with the calls of TrajectorySearch.

A query goes to its shards in batches, of which only so many are on their way at once; answers are merged in an order
that does not matter. An actor that dies is started again by Ray on what the manifest names, and what it had not
answered is asked again: reading changes nothing, so asking twice is safe, and each request's answer is taken once.
There is no timeout: a slow shard is waited for, since an answer without it would depend on who else is asking.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from rapid_dist import errors
from rapid_dist.knowledge_base.clusters import Router
from rapid_dist.knowledge_base.files import ShardFiles, open_router, open_shard, shard_files
from rapid_dist.knowledge_base.neighbors import Neighbors, merge_into, no_neighbors
from rapid_dist.knowledge_base.search import OpenShard, TrajectorySearch, look_up_in_shards
from rapid_dist.runtime.session import placed
from rapid_dist.specs import KnowledgeBaseSpec, RunSpec
from rapid_dist.storage.manifest import Manifest
from rapid_dist.storage.store import Store

BATCH_QUERIES = 512
IN_FLIGHT_PER_ACTOR = 2


def routing_section(spec: RunSpec) -> dict[str, Any]:
    """What a stage that asks the base depends on beyond the base; nothing with full fan-out, as before routing."""
    num_probes = spec.knowledge_base.num_probes
    return {} if num_probes is None else {"num_probes": num_probes}


@contextlib.contextmanager
def served_search(
    spec: KnowledgeBaseSpec, store: Store | None, base: Manifest | None, *, is_private: bool = False
) -> Iterator[TrajectorySearch | None]:
    """A query service where the spec asks for one, else None: then whoever asks opens the base itself."""
    if base is None or spec.serving == "in_process":
        yield None
        return
    with open_service(spec, store, base, is_private=is_private) as service:
        yield service


@contextlib.contextmanager
def open_service(
    spec: KnowledgeBaseSpec, store: Store, base: Manifest, *, num_replicas: int = 1, is_private: bool = False
) -> Iterator[QueryService]:
    """Starts the actors of one version of a base and ends them afterwards; the service pickles into any worker.

    is_private: whether private records are asked for, so that the actors are where those may be.
    Raises what opening a shard raises, such as ArtifactError for a damaged file.
    """
    options = placed(is_private=is_private).options
    if is_private and options:
        # Anywhere, not in the placement group of a study's trial, which holds one sliver only.
        options["scheduling_strategy"] = "SPREAD"
    import ray

    # No CPUs are claimed: workers that wait for answers hold them all. Ray starts what dies again, as often as needed.
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, **options)(_ShardServer)
    shards = [
        [actor.remote(spec, store, files, base.facts["ef_search"]) for _ in range(num_replicas)]
        for files in shard_files(base)
    ]
    try:
        router = None if spec.num_probes is None else open_router(store, base, space=spec.space)
        service = QueryService(shards, router=router, num_probes=spec.num_probes)
        service.check()
        yield service
    finally:
        if ray.is_initialized():
            for replica in [replica for replicas in shards for replica in replicas]:
                ray.kill(replica)


class _ShardServer:
    """An actor that holds one shard. Errors of ours are answers: Ray would wrap them. It prints and keeps nothing."""

    def __init__(self, spec: KnowledgeBaseSpec, store: Store, files: ShardFiles, ef_search: int):
        self._settings = {"space": spec.space, "method": spec.method}
        self._opened = errors.as_value(
            open_shard, store, files, space=spec.space, ef_search=ef_search, with_index=spec.method == "hnsw"
        )

    def ask(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return errors.as_value(getattr(self, f"_{call}"), **arguments)

    @property
    def _shard(self) -> OpenShard:
        """The shard. Raises, at every call, what opening it raised."""
        return errors.value_of(self._opened)

    def _query(self, queries: np.ndarray, num_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
        found = self._shard.query(queries, num_neighbors=num_neighbors, **self._settings)
        return found.trajectory_id, found.distance

    def _query_within(
        self, queries: np.ndarray, num_neighbors: int, column: str, allowed: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        found = self._shard.query_within(
            queries, num_neighbors=num_neighbors, space=self._settings["space"], column=column, allowed=allowed
        )
        return found.trajectory_id, found.distance

    def _look_up(self, column: str, trajectory_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._shard.look_up(column, trajectory_ids)

    def _count_labels(self, num_prototypes: int, num_labels: int) -> np.ndarray:
        return self._shard.count_labels(num_prototypes, num_labels)


class QueryService:
    """A client of the service; every worker may hold a copy. Implements TrajectorySearch.

    shards: the actors of each shard, in the order of the shards.
    """

    def __init__(self, shards: Sequence[Sequence[Any]], *, router: Router | None, num_probes: int | None):
        self._shards, self._router, self._num_probes = shards, router, num_probes
        self._max_in_flight = IN_FLIGHT_PER_ACTOR * sum(map(len, shards))

    def check(self) -> None:
        """Waits until every actor has opened its shard. Raises what opening raised."""
        nothing = {"column": "label", "trajectory_ids": np.empty(0, np.int64)}
        for replica in range(max(map(len, self._shards))):
            list(self._answers([(s, replica, "look_up", nothing) for s in range(len(self._shards))]))

    def query(self, queries: np.ndarray, *, num_neighbors: int) -> Neighbors:
        """As TrajectorySearch.query: over all shards, or the num_probes nearest ones of each query."""
        everything = [np.arange(len(queries))] * len(self._shards)
        asked = everything if self._num_probes is None else self._router.asked_of(queries, self._num_probes)

        def arguments(rows: np.ndarray) -> dict[str, Any]:
            return {"queries": queries[rows], "num_neighbors": num_neighbors}

        return self._merged("query", asked, arguments, len(queries), num_neighbors)

    def query_within(
        self,
        queries: np.ndarray,
        *,
        num_neighbors: int,
        column: str,
        allowed: Sequence[Collection[int]] | np.ndarray,
    ) -> Neighbors:
        """As TrajectorySearch.query_within: always over all shards, always exact."""
        if len(allowed) != len(queries):
            raise errors.InputError(f"got {len(allowed)} allowed sets for {len(queries)} queries; expected one a query")

        def arguments(rows: np.ndarray) -> dict[str, Any]:
            part = allowed[rows] if isinstance(allowed, np.ndarray) else [allowed[i] for i in rows]
            return {"queries": queries[rows], "num_neighbors": num_neighbors, "column": column, "allowed": part}

        asked = [np.arange(len(queries))] * len(self._shards)
        return self._merged("query_within", asked, arguments, len(queries), num_neighbors)

    def values_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """As TrajectorySearch.values_of."""
        return self._looked_up("value", trajectory_ids, np.float32)

    def labels_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """As TrajectorySearch.labels_of."""
        return self._looked_up("label", trajectory_ids, np.int32)

    def prototypes_of(self, trajectory_ids: np.ndarray) -> np.ndarray:
        """As TrajectorySearch.prototypes_of."""
        return self._looked_up("prototype", trajectory_ids, np.int32)

    def count_labels(self, num_prototypes: int, num_labels: int) -> np.ndarray:
        """As TrajectorySearch.count_labels."""
        arguments = {"num_prototypes": num_prototypes, "num_labels": num_labels}
        requests = [(s, 0, "count_labels", arguments) for s in range(len(self._shards))]
        return sum(answer for _, answer in self._answers(requests))

    def _merged(
        self,
        call: str,
        asked: Sequence[np.ndarray],
        arguments: Callable[[np.ndarray], dict[str, Any]],
        num_queries: int,
        num_neighbors: int,
    ) -> Neighbors:
        found = no_neighbors(num_queries, num_neighbors)
        # The first batch goes out even when it is empty: so wrong settings are refused as they are with queries.
        batches = [
            (s, rows[first : first + BATCH_QUERIES])
            for s, rows in enumerate(asked)
            for first in range(0, max(1, len(rows)), BATCH_QUERIES)
        ]
        requests = ((s, i, call, arguments(rows)) for i, (s, rows) in enumerate(batches))
        for position, (ids, distance) in self._answers(requests):
            merge_into(found, batches[position][1], Neighbors(ids, distance))
        return found

    def _looked_up(self, column: str, trajectory_ids: np.ndarray, dtype: type) -> np.ndarray:
        def ask(ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            arguments = {"column": column, "trajectory_ids": ids}
            requests = [(s, 0, "look_up", arguments) for s in range(len(self._shards))]
            return (answer for _, answer in self._answers(requests))

        return look_up_in_shards(trajectory_ids, dtype, ask)

    def _answers(self, requests: Any) -> Iterator[tuple[int, Any]]:
        """(position, answer) of every request (shard, replica, call, arguments) once, as they come.

        At most max_in_flight are on their way, so a slow shard slows its askers instead of filling memory.
        """
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError

        pending, waiting = enumerate(requests), {}

        def submit(position: int, request: tuple[int, int, str, dict[str, Any]]) -> None:
            shard, replica, call, arguments = request
            replicas = self._shards[shard]
            waiting[replicas[replica % len(replicas)].ask.remote(call, arguments)] = (position, request)

        while True:
            while len(waiting) < self._max_in_flight and (following := next(pending, None)) is not None:
                submit(*following)
            if not waiting:
                return
            (reference,), _ = ray.wait(list(waiting), num_returns=1)
            position, request = waiting.pop(reference)
            try:
                result = ray.get(reference)
            except ActorUnavailableError:
                submit(position, request)
                continue
            except RayActorError as error:
                raise errors.RapidDistError(
                    f"the actor of shard {request[0]} is gone and was not started again: the session that holds the "
                    "query service ended; run the same line again"
                ) from error
            yield position, errors.value_of(result)
