"""How trials ask the driver: a desk that answers requests there, and a gate at which a trial waits at its rungs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rapid_dist import errors
from rapid_dist.distributed.session import start_beside_driver

_WAIT_SECONDS = 1.0


class _Counter:
    """An actor of several threads: who asks waits for the answer, the driver takes what was asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: list[tuple[int, dict[str, Any]]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._next = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._changed:
            number, self._next = self._next, self._next + 1
            self._asked.append((number, request))
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._answers)
            return self._answers.pop(number)

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._asked), timeout=_WAIT_SECONDS)
            asked, self._asked = self._asked, []
            return asked

    def answer(self, number: int, value: dict[str, Any]) -> None:
        with self._changed:
            self._answers[number] = value
            self._changed.notify_all()


class DeskClient:
    """Asks the driver; it pickles."""

    def __init__(self, actor: Any):
        self._actor = actor

    def ask(self, kind: str, **content: Any) -> dict[str, Any]:
        """The driver's answer. Raises the error of ours that it met."""
        import ray

        answer = ray.get(self._actor.ask.remote({"kind": kind, **content}))
        if "error" in answer:
            raise errors.error_named(answer["error"], answer["message"])
        return answer


@contextlib.contextmanager
def open_desk(handle: Callable[[dict[str, Any]], dict[str, Any]], *, num_threads: int = 8) -> Iterator[DeskClient]:
    """Answers requests with handle(request), in threads of this process, while the block runs."""
    import ray

    actor = start_beside_driver(_Counter, max_concurrency=256)
    stop = threading.Event()

    def answer(number: int, request: dict[str, Any]) -> None:
        try:
            value = handle(request)
        except errors.RapidDistError as error:
            value = {"error": type(error).__name__, "message": str(error)}
        except Exception as error:  # a bug of ours: the trial that waits must hear of it
            value = {"error": "RapidDistError", "message": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(Exception):
            ray.get(actor.answer.remote(number, value))

    def serve(pool: ThreadPoolExecutor) -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):
                for number, request in ray.get(actor.take.remote()):
                    pool.submit(answer, number, request)

    with ThreadPoolExecutor(num_threads, thread_name_prefix="desk") as pool:
        thread = threading.Thread(target=serve, args=(pool,), name="desk", daemon=True)
        thread.start()
        try:
            yield DeskClient(actor)
        finally:
            stop.set()
            thread.join(timeout=10)
            if ray.is_initialized():
                ray.kill(actor)


class _Gate:
    """An actor of several threads at which the training waits with a score until the trial's driver lets it on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: tuple[int, float] | None = None
        self._is_over = False

    def arrive(self, step: int, score: float) -> None:
        with self._changed:
            self._waiting = (step, score)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is None)

    def next(self) -> tuple[int, float] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._is_over)
            return self._waiting

    def go_on(self) -> None:
        with self._changed:
            self._waiting = None
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()


class Gate:
    """A trial's gate: its training calls it at a rung and waits; its driver takes what arrives. It pickles."""

    def __init__(self, actor: Any):
        self._actor = actor

    @classmethod
    def open(cls) -> Gate:
        """A gate whose actor ends with the process that opened it."""
        import ray

        return cls(ray.remote(num_cpus=0, max_concurrency=4)(_Gate).remote())

    def __call__(self, step: int, score: float) -> None:
        """Waits with a score until go_on."""
        import ray

        ray.get(self._actor.arrive.remote(step, score))

    def next(self) -> tuple[int, float] | None:
        """The step and score of who waits, once somebody does; None when the training is over."""
        import ray

        return ray.get(self._actor.next.remote())

    def go_on(self) -> None:
        """Lets the one who waits go on."""
        import ray

        ray.get(self._actor.go_on.remote())

    def close(self) -> None:
        """The training is over."""
        import ray

        ray.get(self._actor.close.remote())
