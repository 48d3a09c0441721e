"""A Ray session for one command: the cluster that RAY_ADDRESS names, else a local one that ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from rapid_dist.specs import RuntimeSpec

_sessions: list[RuntimeSpec] = []  # the outermost session owns the Ray that is started within it


@contextlib.contextmanager
def ray_session(runtime: RuntimeSpec) -> Iterator[None]:
    """A scope in which start_ray may start Ray; what it started ends with the outermost scope.

    Nothing is started until a stage has work for it, so that a run with nothing left to do costs no start.
    """
    _sessions.append(runtime)
    try:
        yield
    finally:
        _sessions.pop()
        if not _sessions:
            _stop_own_ray()


_owns_ray = False


def start_ray() -> None:
    """Joins a running session or the cluster of RAY_ADDRESS, or starts a local Ray on loopback; at most once."""
    global _owns_ray
    # Nothing phones home; a worker that dies is noticed within a second; OpenMP threads that wait do not spin, since
    # on shared cores spinning made small layers 10 to 50 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's core logs a warning of its own about every pool of actors that Ray Data makes, as an error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not os.environ.get("RAY_ADDRESS"):
        # The dashboard stays on: Ray Train asks its State API, and without it complains or waits for ever.
        quiet |= {"num_cpus": _sessions[0].num_cpus if _sessions else None, "include_dashboard": True}
    with _silent_core():
        ray.init(**quiet)
    _owns_ray = bool(_sessions)
    _quieten()


@contextlib.contextmanager
def _silent_core() -> Iterator[None]:
    """Keeps what Ray's core prints while it starts off the terminal; what goes wrong is raised all the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _stop_own_ray() -> None:
    global _owns_ray
    if _owns_ray:
        import ray

        ray.shutdown()
        _owns_ray = False


def _quieten() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def available_cpus() -> int:
    """Logical CPUs of the whole session, which this starts."""
    start_ray()
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
