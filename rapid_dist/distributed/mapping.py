"""A resumable map over the parts of a stage with Ray Data: finished parts are skipped, errors come back as values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rapid_dist import errors
from rapid_dist.artifacts.parts import FinishedParts
from rapid_dist.artifacts.storage import Store
from rapid_dist.distributed.session import start_ray
from rapid_dist.telemetry import Progress

# Below a whole CPU each, so that Ray Data's own tasks always find room beside a pool of actors.
ACTOR_CPUS = 0.5


MakeFn = Callable[..., Callable[[int], dict[str, Any]]]


class _Guarded:
    """Calls the part function in a worker and marks the part finished; our errors become a value, bugs fly."""

    def __init__(self, make_fn: MakeFn, arguments: tuple[Any, ...], parts: FinishedParts):
        self._parts = parts
        self._failure: dict[str, Any] | None = None
        try:
            self._fn = make_fn(*arguments)
        except errors.RapidDistError as error:
            self._failure = _as_value(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        index = int(row["id"])
        answer = self._failure
        if answer is None:
            try:
                answer = self._fn(index)
                self._parts.add(index, answer)
            except errors.RapidDistError as error:
                answer = _as_value(error)
        return {"part": index, "answer": json.dumps(answer)}


def _run_once(row: dict[str, Any], make_fn: MakeFn, arguments: tuple[Any, ...], parts: FinishedParts) -> dict[str, Any]:
    return _Guarded(make_fn, arguments, parts)(row)


def _as_value(error: errors.RapidDistError) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": str(error)}


def map_parts(
    make_fn: MakeFn,
    arguments: tuple[Any, ...],
    num_parts: int,
    *,
    store: Store,
    name: str,
    num_actors: int,
    keeps_state: bool = True,
) -> list[dict[str, Any]]:
    """Results of fn(0) .. fn(num_parts - 1) in order, where fn = make_fn(*arguments) is made once an actor.

    fn writes its part's files and returns a JSON-able result. Parts that an earlier call finished are not redone.
    keeps_state: False when making fn is cheap; then plain tasks run it, which reuse warm processes.
    Raises the error of the lowest part that failed with one of ours.
    """
    finished = FinishedParts(store, name)
    results = {i: r for i, r in finished.load().items() if i < num_parts}
    missing = [i for i in range(num_parts) if i not in results]
    if missing:
        start_ray()
        import ray.data

        progress = Progress(name, num_parts, first=len(results))
        dataset = ray.data.from_items([{"id": i} for i in missing], override_num_blocks=len(missing))
        if keeps_state and len(missing) > 1:
            pool = ray.data.ActorPoolStrategy(size=min(num_actors, len(missing)))
            given = (make_fn, arguments, finished)
            mapped = dataset.map(_Guarded, fn_constructor_args=given, compute=pool, num_cpus=ACTOR_CPUS)
        else:
            mapped = dataset.map(_run_once, fn_args=(make_fn, arguments, finished))
        failures: dict[int, dict[str, Any]] = {}
        for row in mapped.iter_rows():
            answer = json.loads(row["answer"])
            if "error" in answer:
                failures[row["part"]] = answer
            else:
                results[row["part"]] = answer
                progress.update(len(results), rows=int(answer.get("rows", 0)))
        if failures:
            first = failures[min(failures)]
            raise errors.error_named(first["error"], first["message"])
    return [results[i] for i in range(num_parts)]
