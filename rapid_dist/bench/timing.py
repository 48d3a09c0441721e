"""Rates of contenders that take turns, and the memory that work takes."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass
class Cost:
    """What a piece of work took: seconds on the clock, core seconds of this process, and bytes.

    peak_bytes: the highest resident memory above that at the start; kept_bytes: what is still resident above it
    at the end. Where the system cannot reset the peak (not Linux) peak_bytes counts from the last highest.
    """

    seconds: float = 0.0
    core_seconds: float = 0.0
    peak_bytes: int = 0
    kept_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Yields a Cost that is filled in when the block ends."""
    cost, before = Cost(), _resident_bytes()
    _reset_peak()
    start, core_start = time.perf_counter(), time.process_time()
    yield cost
    cost.seconds, cost.core_seconds = time.perf_counter() - start, time.process_time() - core_start
    cost.peak_bytes = max(0, peak_bytes() - before)
    cost.kept_bytes = max(0, _resident_bytes() - before)


@dataclass
class Rates:
    """Queries a second of each turn, in the order of the turns; per core by the process's CPU time."""

    per_core: list[float] = field(default_factory=list)
    on_clock: list[float] = field(default_factory=list)

    def median_per_core(self) -> float:
        """The middle turn: one disturbed turn does not move it."""
        return float(np.median(self.per_core))

    def median_on_clock(self) -> float:
        """The same by the clock, which counts waiting for a shared core."""
        return float(np.median(self.on_clock))


def take_turns(contenders: Sequence[Callable[[], int]], *, rounds: int) -> list[Rates]:
    """Returns the rates of each contender over the rounds, after one turn that is not counted.

    In a round each has one turn, in an order that is reversed every time, so that a disturbance of shared cores
    meets all of them. A contender does its work and returns how many queries that was.
    """
    rates = [Rates() for _ in contenders]
    for contender in contenders:
        contender()
    for r in range(rounds):
        for i in range(len(contenders))[:: -1 if r % 2 else 1]:
            start, core_start = time.perf_counter(), time.process_time()
            count = contenders[i]()
            core_seconds, seconds = time.process_time() - core_start, time.perf_counter() - start
            rates[i].per_core.append(count / max(core_seconds, 1e-9))
            rates[i].on_clock.append(count / max(seconds, 1e-9))
    return rates


def ratio(ours: Rates, theirs: Rates) -> float:
    """The median over rounds of the quotient of two contenders' rates per core in the same round."""
    return float(np.median(np.array(ours.per_core) / np.array(theirs.per_core)))


def peak_bytes() -> int:
    """The highest resident memory of this process since it was last reset, in bytes."""
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)


def _resident_bytes() -> int:
    return _status_bytes("VmRSS") if _STATUS.exists() else peak_bytes()


def _status_bytes(name: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _reset_peak() -> None:
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return
