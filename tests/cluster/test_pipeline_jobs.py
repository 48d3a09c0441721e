"""The whole pipeline as Ray jobs with artefacts on S3: cancelled once, robbed of a node once, and still right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.local import start_cluster
from rapid_dist import layout
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from tests.cluster.conftest import SECRET
from tests.cluster.ray_jobs import RayJobs, checkout, last_json, ledger_store, put_sources, wait_until
from tests.tiny import tiny_settings, write_spec

pytestmark = pytest.mark.cluster

STEPS, BLOCK, SPARE = 1500, 25, 300


@dataclass
class Finished:
    """What was seen of the jobs, and where their run lies."""

    run: Store
    logs: dict[str, str] = field(default_factory=dict)
    spent_when_stopped: float = 0.0
    stopped_status: str = ""
    entries_when_stopped: dict[str, bytes] = field(default_factory=dict)


@pytest.fixture(scope="module")
def finished(s3_environment, tiny_sources, tmp_path_factory):
    prefix = "s3://bucket/cluster"
    folder = checkout(tmp_path_factory.mktemp("checkout"))
    settings = tiny_settings(
        tiny_sources,
        privacy={"spare_steps": SPARE},
        training={"steps": STEPS, "checkpoint_every": BLOCK},
        runtime={
            "num_workers": 1,
            "min_workers": 1,
            "max_workers": 2,
            "num_cpus": None,
            "resize_seconds": 5,
            "max_failures": 5,
        },
    )
    settings["data"] |= put_sources(tiny_sources, f"{prefix}/sources")
    write_spec(folder / "spec.yaml", settings)
    seen = Finished(run=Store(f"{prefix}/run"))
    entry = ("--spec", "spec.yaml", "--out", seen.run.uri)
    # The code reaches the workers by --working-dir alone.
    with start_cluster(2, cpus_per_node=1, env={**s3_environment, "PYTHONPATH": ""}) as cluster:
        jobs = RayJobs(cluster, folder)
        for name in ("ingest", "pretrain", "build_kb"):
            seen.logs[name] = jobs.submit(name, f"jobs/{name}.py", *entry)

        checkpoints = seen.run.child(f"{layout.TRAIN}/checkpoints")
        jobs.submit("train-1", "jobs/train.py", *entry, wait=False)
        wait_until(lambda: len(checkpoints.list_files()) > 1 or jobs.status("train-1") == "FAILED", "a checkpoint")
        jobs.stop("train-1")
        seen.stopped_status, seen.logs["train-1"] = jobs.status("train-1"), jobs.log("train-1")
        ledger = ledger_store(seen.run)
        seen.spent_when_stopped = read_ledger(ledger).spent_epsilon()
        seen.entries_when_stopped = {name: ledger.read_bytes(name) for name in ledger.list_files()}

        jobs.submit("train-2", "jobs/train.py", *entry, wait=False)
        wait_until(lambda: group_sizes(jobs.log("train-2"))[-1:] == "2", "a group of two")
        before = checkpoints.list_files()
        wait_until(lambda: checkpoints.list_files() != before, "another checkpoint")
        assert read_manifest(seen.run.child(layout.TRAIN)) is None
        cluster.workers[0].kill()
        wait_until(lambda: group_sizes(jobs.log("train-2"))[-1:] == "1", "the smaller group")
        cluster.add_node()
        seen.logs["train-2"] = jobs.wait_for_end("train-2", 600)

        for name in ("sample", "evaluate"):
            seen.logs[name] = jobs.submit(name, f"jobs/{name}.py", *entry)
        seen.logs["again"] = jobs.submit("again", "jobs/run.py", *entry)
    return seen


def group_sizes(log: str) -> str:
    """One digit for each group of workers that started."""
    return "".join(re.findall(r"starts on (\d) of at most 2 workers", log))


def test_a_cancelled_job_leaves_its_ledger_and_no_manifest_and_the_next_one_goes_on(finished):
    assert finished.stopped_status == "STOPPED"
    assert finished.spent_when_stopped > 0
    ledger = ledger_store(finished.run)
    after = read_ledger(ledger)
    kept = {name: ledger.read_bytes(name) for name in finished.entries_when_stopped}
    assert kept == finished.entries_when_stopped
    assert after.spent_epsilon() > finished.spent_when_stopped
    train = read_manifest(finished.run.child(layout.TRAIN))
    assert train.facts["completed"]
    assert train.facts["steps"] == STEPS


def test_a_lost_node_and_a_new_one_change_the_group_and_every_attempt_is_paid_for(finished):
    sizes = group_sizes(finished.logs["train-2"])
    assert re.search("2.*1.*2", sizes), sizes
    attempts = len(group_sizes(finished.logs["train-1"])) + len(sizes)
    paid = read_ledger(ledger_store(finished.run))
    assert 4 <= len(paid.attempts) <= attempts
    # Every restart lost at most one block of steps that was paid for, and none of it was taken back.
    lost = sum(c.num_steps for c in paid.charges if c.purpose == "training") - STEPS
    assert 0 <= lost <= BLOCK * (attempts - 1)
    assert paid.spent_epsilon() <= 8


def test_the_ledger_is_verified_by_the_command_line(finished):
    command = [sys.executable, "-m", "rapid_dist", "ledger", "verify", finished.run.uri, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["verified"]
    assert answer["pld"] == pytest.approx(read_ledger(ledger_store(finished.run)).spent_epsilon())


def fields(value: Any, path: str = "") -> set[str]:
    """Dotted names of all fields; lists count as one."""
    if not isinstance(value, dict):
        return {path}
    return set().union(*(fields(v, f"{path}.{k}") for k, v in value.items())) if value else {path}


def test_the_report_has_the_fields_of_a_local_run(finished, tiny_sources, tmp_path):
    settings = tiny_settings(tiny_sources, privacy={"spare_steps": 8}, runtime={"num_workers": 1})
    command = [sys.executable, "-m", "rapid_dist", "run", str(write_spec(tmp_path / "spec.yaml", settings))]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--json"], capture_output=True, text=True, timeout=600, env=kept
    )
    assert done.returncode == 0, done.stderr[-2000:]
    local = json.loads((tmp_path / "out" / layout.EVALUATION / "report.json").read_text())
    on_cluster = json.loads(finished.run.read_bytes(f"{layout.EVALUATION}/report.json"))
    assert fields(on_cluster) == fields(local)


def test_job_logs_show_progress_and_no_secret_is_anywhere(finished):
    assert "pretrain" in finished.logs["pretrain"]
    assert f"/{STEPS}" in finished.logs["train-2"]
    assert last_json(finished.logs["evaluate"])["report"]["spent_epsilon"] > 0
    assert all(stage["skipped"] for stage in last_json(finished.logs["again"])["stages"])
    assert not any(SECRET in log for log in finished.logs.values())
