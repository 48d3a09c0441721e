"""A sink that keeps every value, for tests."""

from __future__ import annotations

from rapid_dist.metrics.recorder import Recorder


class Kept:
    """values: (metric name, labels without run) -> every value recorded, in order."""

    def __init__(self):
        self.values: dict[tuple, list[float]] = {}
        self.flushes = 0

    def record(self, metric, value, labels):
        rest = tuple(v for k, v in sorted(labels.items()) if k != "run")
        self.values.setdefault((metric.name, *rest), []).append(value)

    def flush(self):
        self.flushes += 1

    def of(self, metric, *labels):
        return self.values.get((metric.name, *labels), [])


def kept_recorder() -> tuple[Recorder, Kept]:
    sink = Kept()
    return Recorder(sink, {"run": "tiny"}), sink
