"""Values held back and merged, so that a worker sends one small batch a second and not every value."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Protocol

from rapid_dist.metrics.catalog import CATALOG, STAGE_RUNNING, Metric, require_exportable


class Sink(Protocol):
    """Where recorded values go. The metric's kind says what a value means: an increment, a level or an observation."""

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None: ...

    def flush(self) -> None: ...


class Recorder:
    """What code that has something to report calls. Pickles when its sink does.

    Guarantee: only metrics that the catalog declares as public or dp reach the sink.
    """

    def __init__(self, sink: Sink | None = None, labels: Mapping[str, str] | None = None):
        self.sink, self.labels = sink, {"run": "", **(labels or {})}

    @property
    def is_on(self) -> bool:
        return self.sink is not None

    def labelled(self, **labels: str) -> Recorder:
        """The same recorder with labels that all its values carry."""
        return Recorder(self.sink, {**self.labels, **labels})

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self._record("counter", metric, amount, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._record("gauge", metric, value, labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Adds one observation to a histogram."""
        self._record("histogram", metric, value, labels)

    @contextlib.contextmanager
    def timed(self, metric: Metric, **labels: str) -> Iterator[None]:
        """Observes the seconds that the block took, unless it raised."""
        started = time.monotonic()
        yield
        self.observe(metric, time.monotonic() - started, **labels)

    def flush(self) -> None:
        """Sends what a sink holds back; call it before a worker ends."""
        if self.sink is not None:
            self.sink.flush()

    def _record(self, kind: str, metric: Metric, value: float, labels: dict[str, str]) -> None:
        require_exportable(metric)
        whole = {**self.labels, **labels}
        if metric.kind != kind or set(whole) != set(metric.label_names):
            raise ValueError(f"{metric.name} is a {metric.kind} with {metric.label_names}; got a {kind} with {whole}")
        if self.sink is not None:
            self.sink.record(metric, float(value), whole)


@contextlib.contextmanager
def stage_shown(recorder: Recorder, name: str) -> Iterator[None]:
    """Shows in the metrics that a stage is at work while the block runs."""
    recorder.set(STAGE_RUNNING, 1, stage=name)
    try:
        yield
    finally:
        recorder.set(STAGE_RUNNING, 0, stage=name)


_current: ContextVar[Recorder] = ContextVar("rapid_dist_recorder")


def current_recorder() -> Recorder:
    """The recorder of the innermost `recording` of this thread; one that drops everything outside of any."""
    return _current.get(None) or Recorder()


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """A scope in which current_recorder() is the given one."""
    token = _current.set(recorder)
    try:
        yield recorder
    finally:
        _current.reset(token)


# (metric name, labels sorted by name, values)
Batch = list[tuple[str, tuple[tuple[str, str], ...], list[float]]]


class Buffer:
    """A sink that adds up counters, keeps the last level of a gauge and every observation, until taken."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        key = (metric.name, tuple(sorted(labels.items())))
        held = self._values.get(key, [])
        self._values[key] = {
            "counter": lambda: [sum(held) + value],
            "gauge": lambda: [value],
            "histogram": lambda: [*held, value],
        }[metric.kind]()

    def flush(self) -> None:
        """Keeps what it holds: only take() empties it."""

    def take(self) -> Batch:
        """What was recorded since the last call."""
        values, self._values = self._values, {}
        return [(name, labels, held) for (name, labels), held in values.items()]


def replay(batch: Batch, sink: Sink) -> None:
    """Records a batch in another sink."""
    for name, labels, values in batch:
        for value in values:
            sink.record(CATALOG[name], value, dict(labels))
