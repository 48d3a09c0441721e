"""Work in other processes: one task, or a resumable map over the parts of a stage, whose errors come back as values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from rapid_dist import errors
from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Recorder, current_recorder, recording
from rapid_dist.runtime.mailbox import relayed_recorder
from rapid_dist.runtime.session import placed
from rapid_dist.storage.stage import FinishedParts
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import Progress

# Below a whole CPU each, so that Ray Data's own tasks always find room beside a pool of actors.
ACTOR_CPUS = 0.5


MakeFn = Callable[..., Callable[[int], dict[str, Any]]]


class _Guarded:
    """Calls the part function in a worker and marks the part finished; our errors become a value, bugs fly."""

    def __init__(self, make_fn: MakeFn, arguments: tuple[Any, ...], parts: FinishedParts, recorder: Recorder):
        self._parts, self._recorder = parts, recorder
        self._failure: dict[str, Any] | None = None
        try:
            with recording(recorder):
                self._fn = make_fn(*arguments)
        except errors.RapidDistError as error:
            self._failure = errors.failure(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        index = int(row["id"])
        answer = self._failure
        if answer is None:
            try:
                with recording(self._recorder):
                    answer = self._fn(index)
                self._parts.add(index, answer)
                self._recorder.flush()
            except errors.RapidDistError as error:
                answer = errors.failure(error)
        return {"part": index, "answer": json.dumps(answer)}


def _run_once(
    row: dict[str, Any], make_fn: MakeFn, arguments: tuple[Any, ...], parts: FinishedParts, recorder: Recorder
) -> dict[str, Any]:
    return _Guarded(make_fn, arguments, parts, recorder)(row)


def run_task(fn: Callable[..., Any], *arguments: Any, is_private: bool, num_cpus: float, max_retries: int = 1) -> Any:
    """Returns fn(*arguments), run as one Ray task on a node that may see what it reads.

    is_private: whether it reads private data. num_cpus: that it claims. max_retries: how often a lost process is tried
    again; an error of this tree is not, and is raised here.
    """
    options = placed(is_private=is_private).options
    import ray

    task = ray.remote(num_cpus=num_cpus, max_retries=max_retries, **options)(errors.as_value)
    return errors.value_of(ray.get(task.remote(fn, *arguments)))


def map_parts(
    make_fn: MakeFn,
    arguments: tuple[Any, ...],
    num_parts: int,
    *,
    store: Store,
    name: str,
    num_actors: int,
    keeps_state: bool = True,
    is_private: bool = False,
) -> list[dict[str, Any]]:
    """Results of fn(0) .. fn(num_parts - 1) in order, where fn = make_fn(*arguments) is made once an actor.

    fn writes its part's files and returns a JSON-able result. Parts that an earlier call finished are not redone.
    keeps_state: False when making fn is cheap; then plain tasks run it, which reuse warm processes.
    is_private: whether fn reads private data, and so runs where it may.
    Raises the error of the lowest part that failed with one of ours.
    """
    finished = FinishedParts(store, name)
    results = {i: r for i, r in finished.load().items() if i < num_parts}
    missing = [i for i in range(num_parts) if i not in results]
    if missing:
        progress, queue = Progress(name, num_parts, first=len(results)), _Queue(name, len(missing))
        failures: dict[int, dict[str, Any]] = {}
        num_kept = min(num_actors, len(missing)) if keeps_state and len(missing) > 1 else 0
        with relayed_recorder() as recorder:
            for row in _mapped_rows(missing, (make_fn, arguments, finished, recorder), num_kept, is_private):
                answer = json.loads(row["answer"])
                if "error" in answer:
                    failures[row["part"]] = answer
                else:
                    results[row["part"]] = answer
                    progress.update(len(results), rows=int(answer.get("rows", 0)))
                    queue.one_done()
        if failures:
            first = failures[min(failures)]
            raise errors.error_named(first["error"], first["message"])
    return [results[i] for i in range(num_parts)]


def _mapped_rows(
    parts: list[int], given: tuple[Any, ...], num_actors: int, is_private: bool
) -> Iterator[dict[str, Any]]:
    """The answers as they come, from a pool of actors, or from plain tasks when num_actors is 0."""
    options = placed(is_private=is_private).options
    import ray.data

    dataset = ray.data.from_items([{"id": i} for i in parts], override_num_blocks=len(parts))
    if num_actors:
        pool = ray.data.ActorPoolStrategy(size=num_actors)
        mapped = dataset.map(_Guarded, fn_constructor_args=given, compute=pool, num_cpus=ACTOR_CPUS, **options)
    else:
        mapped = dataset.map(_run_once, fn_args=given, **options)
    yield from mapped.iter_rows()


class _Queue:
    """Shows how many parts are left, of maps whose number of parts is public."""

    def __init__(self, work: str, size: int):
        self._work, self._size = work, size
        self._recorder = current_recorder() if work in catalog.PUBLIC_WORK else Recorder()
        self._recorder.set(catalog.QUEUE_DEPTH, size, work=work)

    def one_done(self) -> None:
        self._size -= 1
        self._recorder.set(catalog.QUEUE_DEPTH, self._size, work=self._work)
        self._recorder.add(catalog.PARTS, work=self._work)
