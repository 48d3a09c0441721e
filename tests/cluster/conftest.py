"""One cluster of two worker nodes for the tests that need one, with this checkout on every worker's path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.local import start_cluster
from tests.s3.conftest import s3, s3_server  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def local_cluster():
    with start_cluster(2, cpus_per_node=1, env={"PYTHONPATH": str(ROOT)}) as cluster:
        yield cluster


@pytest.fixture
def driver_environment(local_cluster):
    """The environment of a driver process on the cluster, without what an outer Ray session left in this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), **local_cluster.environment()}
