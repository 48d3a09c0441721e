"""Processes found and ended by a mark in their environment, and nothing else on the host."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

MARK = "RAPID_DIST_LOCAL_CLUSTER"


class ClusterError(RuntimeError):
    """The cluster did not start, or a state file names none."""


def marked_processes(mark: str) -> list[int]:
    """Process ids, zombies left out, whose environment holds this value of MARK, or one that begins with `mark.`."""
    wanted = f"\0{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                environment = b"\0" + (folder / "environ").read_bytes()
                place = environment.find(wanted)
                if place >= 0 and environment[place + len(wanted) : place + len(wanted) + 1] in (b"\0", b".", b""):
                    found.append(int(folder.name))
    return found


def free_port(ip: str) -> int:
    """A TCP port of this address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return probe.getsockname()[1]


def signal_all(mark: str, number: int) -> list[int]:
    """Sends the signal to the marked processes and returns their ids."""
    found = [pid for pid in marked_processes(mark) if pid != os.getpid()]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return found


def reap(pid: int) -> bool:
    """Whether the process was a child of this one and has ended; takes its exit status."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def exists(pid: int) -> bool:
    """Whether there is such a process, a zombie included."""
    return Path(f"/proc/{pid}").exists()


def wait_until(condition: Callable[[], bool], failure: str, seconds: float) -> None:
    """Looks again until the condition holds. Raises ClusterError with the failure when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(failure)
        time.sleep(0.1)
