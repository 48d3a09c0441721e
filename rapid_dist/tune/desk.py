"""What each trial of a study is told to run: its spec with its noise, its data and its ledger."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from rapid_dist import errors
from rapid_dist.errors import RapidDistError, SpecError
from rapid_dist.privacy.ledger import open_ledger
from rapid_dist.runtime.session import start_beside_driver
from rapid_dist.specs.study import COMPOSE, PUBLIC_PROXY, SUBSET
from rapid_dist.tune.study import Study
from rapid_dist.tune.trials import TRAIN, Trial, TrialGauges
from rapid_dist.tune.wording import LiveTable

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


_THROW_AWAY_EPSILON = 1000.0  # of a ledger of public images that pretend: it promises nothing to anyone


class TrialDesk:
    """Answers the trials of a study. One process holds it, and one trial begins at a time."""

    def __init__(self, study: Study, live: LiveTable, gauges: TrialGauges):
        self.study, self.live, self.book = study, live, study.book
        self._gauges = gauges
        self.show_all()
        self._lock, self._began = threading.Lock(), {}
        self._groups: dict[str, set[Any]] = {}

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answers a trial: begin (what to run), group (what its workers hold), ended, failed (it made no sense)."""
        kind = request["kind"]
        if kind == "begin":
            return self._begin(request)
        if kind == "group":
            self._groups.setdefault(request["trial"], set()).add(request["group"])
            return {}
        if kind == "ended":
            self.end(request["trial"], status=request["status"], reason=request["reason"])
            return {}
        self._failed(request["tune_id"], request["reason"])
        return {}

    def name_of(self, tune_id: str) -> str | None:
        """The trial that Ray Tune knows by this id."""
        return next((t.name for t in self.book.all() if t.tune_id == tune_id), None)

    def end(self, name: str, *, status: str, reason: str) -> None:
        """Keeps how a trial ended; the first word stands."""
        with self._lock:
            if self.book.ending(name) is None:
                seconds = time.monotonic() - self._began.get(name, time.monotonic())
                self.book.end(name, status=status, reason=reason, seconds=seconds)

    def ended(self, trial: Trial) -> None:
        """Frees what a trial held, and says that it has ended and how."""
        self.release(trial.name)
        row = self.study.row(trial)
        self.live.ended(row)
        self._gauges.show((row,))

    def release(self, name: str) -> None:
        """Gives back what groups of workers of a trial still claim on the cluster.

        Ray Train's own cleaner does so when a trial was stopped in mid-course, but not where several Rays run on one
        host, and the next trial would wait for ever.
        """
        import ray

        for group in self._groups.pop(name, ()):
            ray.util.remove_placement_group(group)

    def show_all(self) -> None:
        """Shows operators all trials as they are."""
        self._gauges.show(self.study.rows())

    def _failed(self, tune_id: str, reason: str) -> None:
        name = self.name_of(tune_id)
        if name is not None:
            self.end(name, status="failed", reason=reason)

    def _begin(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            trial = self._trial_of(request)
            self.release(trial.name)
            self.book.reopen(trial.name)
            self._began.setdefault(trial.name, time.monotonic())
        row = self.study.row(trial)
        self.live.began(row)
        self._gauges.show((replace(row, status="running"),))
        if trial.reason:
            raise SpecError(trial.reason)
        artefacts = self.study.shared.of(trial.spec)
        base = artefacts.knowledge_base
        folder = self.book.folder(trial.name)
        return {
            "trial": trial.name,
            "spec": trial.spec_yaml,
            "job": trial.job,
            "folder": folder.uri,
            "train": folder.child(TRAIN).uri,
            "images": self.study.images.uri,
            "reference": self.study.reference.uri,
            "pretrain": artefacts.pretrain.uri,
            "knowledge_base": None if base is None else base.uri,
            "ledger": self.study.ledger_of(trial).uri,
            "attempt_terms": self.study.trial_terms(),
        }

    def _trial_of(self, request: Mapping[str, Any]) -> Trial:
        """The trial as it began, or begun now: its noise is fixed once, and is known to all that follow."""
        candidate = request["candidate"]
        known = self.name_of(request["tune_id"])
        name = known or (f"t{candidate:04d}" if candidate is not None else f"t{len(self.book.names()):04d}")
        trial = self.book.get(name)
        if trial is None:
            trial = self._new_trial(name, request)
        elif trial.tune_id != request["tune_id"]:  # Ray Tune forgot it when it was killed
            trial = replace(trial, tune_id=request["tune_id"])
        else:
            return trial
        self.book.put(trial)
        return trial

    def _new_trial(self, name: str, request: Mapping[str, Any]) -> Trial:
        common = {
            "name": name,
            "proposal": dict(request["proposal"]),
            "job": f"{self.study.name}/{name}" if self.study.mode in (COMPOSE, SUBSET) else name,
            "tune_id": request["tune_id"],
        }
        try:
            planned = self.study.planned(request["proposal"])
        except RapidDistError as error:
            return Trial(**common, spec_yaml=self.study.spec.run.to_yaml(), charges=(), reason=str(error))
        trial = Trial(**common, spec_yaml=planned.spec.to_yaml(), charges=planned.charges)
        if self.study.mode == PUBLIC_PROXY:
            privacy = planned.spec.privacy
            open_ledger(
                self.study.ledger_of(trial),
                target_epsilon=_THROW_AWAY_EPSILON,
                target_delta=privacy.target_delta,
                neighboring_relation=privacy.neighboring_relation,
                unit=privacy.unit,
            )
        return trial
