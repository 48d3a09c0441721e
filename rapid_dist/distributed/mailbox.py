"""Items that workers send and the driver takes, through one small actor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rapid_dist.distributed.session import start_beside_driver

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
