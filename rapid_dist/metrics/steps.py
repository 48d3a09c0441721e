"""A knowledge-base search whose calls are counted and timed: for queries that no private record made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rapid_dist.errors import StorageError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Recorder

PRIVATE_LOOP = "private"
# How many private steps are shown together at least. The time of one step grows with the number of records drawn
# for it; of a block only the sum is seen. This makes the side channel coarse; it does not close it.
PRIVATE_BLOCK_STEPS = 20


class StepMeter:
    """Counts the steps of one loop. Every worker may hold one; that of rank 0 gets a recorder with a sink."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        loop: str,
        planned_steps: int,
        expected_batch_size: float,
    ):
        """expected_batch_size: a public constant, never a count."""
        self._recorder, self._loop = recorder, loop
        self._planned_steps, self._expected_batch_size = planned_steps, expected_batch_size
        self._seconds: dict[str, float] = {}
        self._inner_seconds: list[float] = []
        self._new_steps, self._step = 0, 0

    def begin(self, step: int) -> None:
        """step: how many steps of the loop were done before; shown at once, so that a stall is seen from the start."""
        self._step = step
        self._recorder.set(catalog.PLANNED_STEPS, self._planned_steps, loop=self._loop)
        self._publish_steps()
        self._recorder.flush()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the wall time of the block, without that of phases inside it, to a phase of the step."""
        started = time.monotonic()
        self._inner_seconds.append(0.0)
        try:
            yield
        finally:
            elapsed, inner = time.monotonic() - started, self._inner_seconds.pop()
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed - inner
            if self._inner_seconds:
                self._inner_seconds[-1] += elapsed

    def step_done(self, step: int) -> None:
        """step: how many steps of the loop are done now."""
        self._step = step
        self._new_steps += 1
        self._publish()

    def close(self) -> None:
        """Shows what is left to show; call it when the loop ends."""
        self._publish_steps()
        self._recorder.flush()

    def _publish(self) -> None:
        self._publish_steps()
        for name, seconds in self._seconds.items():
            self._recorder.add(catalog.PUBLIC_PHASE_SECONDS, seconds, loop=self._loop, phase=name)
        self._seconds.clear()

    def _publish_steps(self) -> None:
        done, self._new_steps = self._new_steps, 0
        self._recorder.set(catalog.STEP, self._step, loop=self._loop)
        self._recorder.add(catalog.STEPS, done, loop=self._loop)
        self._recorder.add(catalog.EXPECTED_EXAMPLES, done * self._expected_batch_size, loop=self._loop)


class PrivateStepMeter(StepMeter):
    """The meter of private training: nothing is shown of less than a block of steps, and seconds are whole.

    Guarantee: steps and examples are functions of public constants. Seconds are not: they are a side channel, made
    coarse; the last, unfinished block shows its steps and no time.
    """

    def __init__(self, recorder: Recorder, *, planned_steps: int, expected_batch_size: float):
        super().__init__(
            recorder, loop=PRIVATE_LOOP, planned_steps=planned_steps, expected_batch_size=expected_batch_size
        )

    @contextlib.contextmanager
    def ledger_write(self) -> Iterator[None]:
        """The phase `ledger`, in which a store that cannot be written is counted."""
        try:
            with self.phase("ledger"):
                yield
        except StorageError:
            self._recorder.add(catalog.LEDGER_FAILURES, operation="write")
            self._recorder.flush()
            raise

    def _publish(self) -> None:
        if self._new_steps < PRIVATE_BLOCK_STEPS:
            return
        self._publish_steps()
        for name, seconds in self._seconds.items():
            whole = int(seconds)
            self._recorder.add(catalog.PRIVATE_PHASE_SECONDS, whole, phase=name)
            self._seconds[name] = seconds - whole


class TimedCollective:
    """A collective whose sums over workers are the phase `all_reduce`, the wait for the slowest included."""

    def __init__(self, collective: Any, meter: StepMeter):
        self._collective, self._meter = collective, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collective, name)

    def sum(self, tensor: Any) -> Any:
        """As Collective.sum."""
        with self._meter.phase("all_reduce"):
            return self._collective.sum(tensor)


def silent_meter() -> StepMeter:
    """A meter that shows nothing."""
    return StepMeter(Recorder(), loop="none", planned_steps=0, expected_batch_size=0)


def group_started(recorder: Recorder, stage: str) -> None:
    """Counts a start of a stage's worker group; rank 0 calls it first of all."""
    recorder.add(catalog.WORKER_GROUP_STARTS, stage=stage)
    recorder.flush()


class MeasuredSearch:
    """Answers as the search inside does. source: who asks, as a label.

    Guarantee: made only around searches whose queries come from public data or from released models; how many
    queries private training makes, and how long they take, is a function of its private batches.
    """

    def __init__(self, search: Any, recorder: Recorder, source: str):
        self._search, self._recorder, self._source = search, recorder, source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._search, name)

    def __len__(self) -> int:
        return len(self._search)

    def query(self, queries: Any, **arguments: Any) -> Any:
        """As KnowledgeBaseSearch.query."""
        return self._measured(self._search.query, queries, arguments)

    def query_within(self, queries: Any, **arguments: Any) -> Any:
        """As KnowledgeBaseSearch.query_within."""
        return self._measured(self._search.query_within, queries, arguments)

    def _measured(self, call: Any, queries: Any, arguments: dict[str, Any]) -> Any:
        with self._recorder.timed(catalog.QUERY_SECONDS, source=self._source):
            found = call(queries, **arguments)
        self._recorder.add(catalog.QUERIES, len(queries), source=self._source)
        return found
