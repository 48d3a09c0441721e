"""One cluster of two worker nodes for the tests that need one, with this checkout on every worker's path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.local import start_cluster
from tests.s3.conftest import s3_server  # noqa: F401

ROOT = Path(__file__).parents[2]
SECRET = "test-secret-never-shown"


@pytest.fixture(scope="module")
def s3_environment(s3_server):  # noqa: F811
    """What nodes and drivers need to reach the S3 endpoint; this process has it too."""
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test-access",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield settings


@pytest.fixture(scope="module")
def local_cluster():
    with start_cluster(2, cpus_per_node=1, env={"PYTHONPATH": str(ROOT)}) as cluster:
        yield cluster


@pytest.fixture
def driver_environment(local_cluster):
    """The environment of a driver process on the cluster, without what an outer Ray session left in this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), **local_cluster.environment()}
