"""With one private and one public node, what reads private records runs on the first, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local import start_cluster
from tests.cluster.conftest import ROOT
from tests.tiny import tiny_settings, write_spec

pytestmark = pytest.mark.cluster

PRIVATE_WORK = {"maps of images-private", "maps of images-test", "workers of train", "shards of train", "evaluation"}
PUBLIC_WORK = {"maps of images-public", "workers of pretrain", "shards of sample", "maps of samples-private"}


@pytest.fixture(scope="module")
def placed(tiny_sources, tmp_path_factory):
    """(address of the private node, work -> addresses of the nodes that did it)"""
    folder = tmp_path_factory.mktemp("placed")
    settings = tiny_settings(
        tiny_sources, knowledge_base={"serving": "service"}, runtime={"num_workers": 1, "num_cpus": None}
    )
    command = [sys.executable, "-m", "tests.cluster.placed_run", write_spec(folder / "spec.yaml", settings)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with start_cluster(2, private_workers=1, cpus_per_node=2, env={"PYTHONPATH": str(ROOT)}) as cluster:
        done = subprocess.run(
            [*map(str, command), str(folder / "out"), str(folder / "left")],
            env={**kept, "PYTHONPATH": str(ROOT), **cluster.environment()},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        private = cluster.workers[-1].address
    return private, {work.name: {p.name for p in work.iterdir()} for work in Path(folder / "left").iterdir()}


def test_private_work_is_on_the_private_node_alone(placed):
    private, left = placed
    assert {work: left.get(work) for work in PRIVATE_WORK} == {work: {private} for work in PRIVATE_WORK}


def test_no_public_work_is_on_the_private_node(placed):
    private, left = placed
    assert left.keys() > PRIVATE_WORK | PUBLIC_WORK
    assert not [work for work in left.keys() - PRIVATE_WORK if private in left[work]]
