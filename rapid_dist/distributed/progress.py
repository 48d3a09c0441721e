"""Lines that workers say, brought to the driver's terminal through one small actor, without Ray's own noise."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from rapid_dist.telemetry import Say, say

_POLL_SECONDS = 1.0


class _Lines:
    """An actor that holds lines until the driver takes them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


@contextlib.contextmanager
def relayed_lines() -> Iterator[Say]:
    """Gives a function that any worker may call to say a line; the driver prints what arrives.

    The function pickles. A line that cannot be delivered is lost, never an error.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's own node: what takes another node away does not silence the rest.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(_Lines).remote()
    stop = threading.Event()

    def drain() -> None:
        with contextlib.suppress(Exception):
            for line in ray.get(actor.take.remote(), timeout=10):
                say(line)

    def poll() -> None:
        while not stop.wait(_POLL_SECONDS):
            drain()

    thread = threading.Thread(target=poll, name="relayed-lines", daemon=True)
    thread.start()
    try:
        yield _Relay(actor)
    finally:
        stop.set()
        thread.join(timeout=15)
        if ray.is_initialized():
            drain()
            ray.kill(actor)


class _Relay:
    def __init__(self, actor: object):
        self._actor = actor

    def __call__(self, line: str) -> None:
        with contextlib.suppress(Exception):
            self._actor.add.remote(line)
