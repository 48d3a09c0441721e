"""A Ray session for one command: the cluster that RAY_ADDRESS names, else a local one that ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from rapid_dist.specs import RuntimeSpec


@contextlib.contextmanager
def ray_session(runtime: RuntimeSpec) -> Iterator[None]:
    """Joins a running session, the cluster of RAY_ADDRESS, or starts a local Ray on loopback and stops it after."""
    # Nothing phones home; a worker that dies is noticed within a second; OpenMP threads that wait do not spin, since
    # on shared cores spinning made small layers 10 to 50 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(num_cpus=runtime.num_cpus, include_dashboard=True, **quiet)
    _quieten()
    try:
        yield
    finally:
        ray.shutdown()


def _quieten() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def available_cpus() -> int:
    """Logical CPUs of the whole session."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
