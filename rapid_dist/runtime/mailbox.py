"""Lines and metrics of workers on their way to the driver."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rapid_dist.metrics.catalog import KINDS, Metric
from rapid_dist.metrics.recorder import Buffer, Recorder, current_recorder, recording, replay
from rapid_dist.runtime.session import start_beside_driver, start_ray
from rapid_dist.telemetry import Say, say

_POLL_SECONDS = 1.0


class _Mailbox:
    """An actor that holds items until the driver takes them."""

    def __init__(self) -> None:
        self._items: list[Any] = []

    def add(self, item: Any) -> None:
        self._items.append(item)

    def take(self) -> list[Any]:
        items, self._items = self._items, []
        return items


class Post:
    """Sends items to the driver from any worker; it pickles. An item that cannot be delivered is lost, no error."""

    def __init__(self, actor: Any):
        self._actor = actor

    def __call__(self, item: Any, *, wait: bool = False) -> None:
        """wait: return only when the item has arrived, so that the caller may end its process."""
        with contextlib.suppress(Exception):
            sent = self._actor.add.remote(item)
            if wait:
                import ray

                ray.get(sent, timeout=10)


@contextlib.contextmanager
def mailbox(deliver: Callable[[Any], None], *, name: str) -> Iterator[Post]:
    """Calls deliver(item) on the driver for every item posted while the block runs; Ray must have been started."""
    import ray

    actor = start_beside_driver(_Mailbox, max_restarts=0)
    stop = threading.Event()

    def drain() -> None:
        with contextlib.suppress(Exception):
            for item in ray.get(actor.take.remote(), timeout=10):
                deliver(item)

    def poll() -> None:
        while not stop.wait(_POLL_SECONDS):
            drain()

    thread = threading.Thread(target=poll, name=name, daemon=True)
    thread.start()
    try:
        yield Post(actor)
    finally:
        stop.set()
        thread.join(timeout=15)
        if ray.is_initialized():
            drain()
            ray.kill(actor)


@contextlib.contextmanager
def relayed_lines() -> Iterator[Say]:
    """Gives a function that any worker may call to say a line; the driver prints what arrives.

    The function pickles. A line that cannot be delivered is lost, never an error.
    """
    with mailbox(say, name="relayed-lines") as post:
        yield post


_SEND_EVERY_SECONDS = 1.0


class RelaySink:
    """A worker's sink: merges what is recorded and posts it once a second, and when flushed."""

    def __init__(self, post: Post):
        self._post = post
        self._buffer, self._sent_at = Buffer(), time.monotonic()

    def __reduce__(self) -> tuple[type[RelaySink], tuple[Post]]:
        return RelaySink, (self._post,)

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        self._buffer.record(metric, value, labels)
        if time.monotonic() - self._sent_at >= _SEND_EVERY_SECONDS:
            self._send(wait=False)

    def flush(self) -> None:
        self._send(wait=True)

    def _send(self, *, wait: bool) -> None:
        self._sent_at = time.monotonic()
        batch = self._buffer.take()
        if batch:
            self._post(batch, wait=wait)


class RaySink:
    """The driver's sink on a cluster: Ray's metrics agent, which shows names with `ray_` before them.

    What is recorded before Ray has been started is held back until then.
    """

    def __init__(self) -> None:
        self._held, self._agent = Buffer(), _Agent()
        self._lock = threading.Lock()  # several threads of a driver record

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        with self._lock:
            self._held.record(metric, value, labels)
        self.flush()

    def flush(self) -> None:
        import ray

        if ray.is_initialized():
            with self._lock:
                replay(self._held.take(), self._agent)


class _Agent:
    def __init__(self) -> None:
        self._instruments: dict[str, Any] = {}

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        instrument = self._instruments.get(metric.name)
        if instrument is None:
            instrument = self._instruments[metric.name] = _make_instrument(metric)
        if metric.kind != "counter" or value > 0:  # Ray refuses to count nothing
            getattr(instrument, KINDS[metric.kind])(value, tags=dict(labels))

    def flush(self) -> None:
        """Nothing is held back."""


def _make_instrument(metric: Metric) -> Any:
    from ray.util import metrics

    # The agent adds `_total` to counters by itself.
    extra = {"boundaries": list(metric.buckets)} if metric.kind == "histogram" else {}
    make = getattr(metrics, metric.kind.capitalize())
    return make(metric.name.removesuffix("_total"), metric.text, tag_keys=metric.label_names, **extra)


@contextlib.contextmanager
def run_recorder(run: str) -> Iterator[Recorder]:
    """The recorder of one run: into an endpoint that is open, else into the agent of the cluster of RAY_ADDRESS."""
    recorder = current_recorder()
    if not recorder.is_on and os.environ.get("RAY_ADDRESS"):
        recorder = Recorder(RaySink())
    with recording(recorder.labelled(run=run)) as labelled:
        yield labelled


@contextlib.contextmanager
def relayed_recorder() -> Iterator[Recorder]:
    """The current recorder in a form that pickles, for workers; nothing is started when metrics are off."""
    recorder = current_recorder()
    if not recorder.is_on:
        yield recorder
        return
    start_ray()
    with mailbox(lambda batch: replay(batch, recorder.sink), name="relayed-metrics") as post:
        yield Recorder(RelaySink(post), recorder.labels)
