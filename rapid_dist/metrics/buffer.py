"""Values held back and merged, so that a worker sends one small batch a second and not every value."""

from __future__ import annotations

from collections.abc import Mapping

from rapid_dist.metrics.catalog import CATALOG, Metric
from rapid_dist.metrics.recorder import Sink

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
