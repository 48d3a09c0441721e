"""Progress lines for people, on stderr, at most one every few seconds."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator

Say = Callable[[str], None]


def headed(name: str, text: str) -> str:
    """A line whose first column says which work it is about."""
    return f"{name:<18} {text}"


_is_muted = False


def say(line: str) -> None:
    """Prints a line for people, unless muted; stdout stays free for results."""
    if not _is_muted:
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Keeps this process from saying anything while the block runs, where when things happen is itself a secret."""
    global _is_muted
    before, _is_muted = _is_muted, True
    try:
        yield
    finally:
        _is_muted = before


class Progress:
    """Counts steps of one long piece of work and says how far it is, how fast, and how long it will take."""

    def __init__(self, name: str, total: int, *, first: int = 0, every_seconds: float = 5.0, say_fn: Say = say):
        self.name, self.total, self.every_seconds, self._say = name, total, every_seconds, say_fn
        self._started = self._last = time.monotonic()
        self._first, self._rows = first, 0

    def update(self, done: int, note: str = "", *, rows: int = 0) -> None:
        """Says a line when enough time has passed since the last one, and always at the end.

        rows: what this step added to a second count, of which only the rate is said.
        """
        self._rows += rows
        now = time.monotonic()
        # Long work says less often: the pause grows with the time taken.
        pause = max(self.every_seconds, (now - self._started) / 20)
        if now - self._last < pause and done < self.total:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        left = (self.total - done) / rate if rate > 0 else float("inf")
        tail = f"  {self._rows / max(now - self._started, 1e-9):.0f} rows/s" if self._rows else ""
        tail += f"  {note}" if note else ""
        text = f"{done}/{self.total}  {rate:.1f}/s  {format_seconds(left)} left{tail}"
        self._say(headed(self.name, text))


def peak_memory_bytes() -> int:
    """The largest resident size that this process has had."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def format_seconds(seconds: float) -> str:
    """1.2 s, 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds < 1e6:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return "unknown time"
