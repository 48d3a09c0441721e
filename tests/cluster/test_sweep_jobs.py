"""A study as a Ray job with everything on S3: cancelled, gone on with, and its winner run by another job."""

from __future__ import annotations

import json

import pytest

from cluster.local import start_cluster
from rapid_dist import layout
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.runtime.session import start_ray
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.tune.trials import read_trials
from tests.cluster.conftest import SECRET
from tests.cluster.ray_jobs import RayJobs, checkout, last_json, ledger_store, put_sources, wait_until
from tests.tiny import tiny_settings, write_spec

pytestmark = pytest.mark.cluster

NUM_TRIALS, STEPS, BLOCK = 3, 60, 10


@pytest.fixture(scope="module")
def study(ray_cluster, s3_environment, tiny_sources, tmp_path_factory):
    """(folder of the study, log of each job, charges when the first job was stopped)

    One private and one public node; every trial is a group of two workers of Ray Train under ASHA.
    """
    # A second Ray on this host, beside which Ray Train does not find what it has to clean up after a stopped trial.
    start_ray()
    prefix = "s3://bucket/sweep"
    folder = checkout(tmp_path_factory.mktemp("checkout"))
    settings = tiny_settings(
        tiny_sources,
        privacy={"spare_steps": 4 * BLOCK},
        training={"steps": STEPS, "checkpoint_every": BLOCK},
        runtime={"num_workers": 2, "num_cpus": None},
    )
    settings["data"] |= put_sources(tiny_sources, f"{prefix}/sources")
    settings["tune"] = {
        "mode": "compose",
        "num_trials": NUM_TRIALS,
        "scheduler": "asha",
        "num_rungs": 2,
        "reduction_factor": 2,
        "num_scored_samples": 40,
        "classifier_epochs": 1,
        "space": {"training.learning_rate": {"log": [1.0e-4, 1.0e-2]}, "schedule.split_step": [50, 70]},
    }
    write_spec(folder / "study.yaml", settings)
    out = Store(f"{prefix}/study")
    entry = ("jobs/sweep.py", "--spec", "study.yaml", "--out", out.uri)
    with start_cluster(2, private_workers=1, cpus_per_node=2, env={**s3_environment, "PYTHONPATH": ""}) as cluster:
        jobs = RayJobs(cluster, folder)
        jobs.submit("sweep-1", *entry, wait=False)
        ledger = ledger_store(out)
        wait_until(lambda: len(charges(ledger)) > 1 or jobs.status("sweep-1") == "FAILED", "a trial's charges")
        jobs.stop("sweep-1")
        before = charges(ledger)
        jobs.submit("sweep-2", *entry, wait=False)
        jobs.wait_for_end("sweep-2", 900)
        jobs.submit("again", *entry)
        best = last_json(jobs.log("sweep-2"))["paths"]["best.yaml"]
        jobs.submit("best", "jobs/run.py", "--spec", best, "--out", f"{out.uri}/best")
        logs = {name: jobs.log(name) for name in ("sweep-1", "sweep-2", "again", "best")}
    return out, logs, before


def charges(ledger):
    return read_ledger(ledger).charges if ledger.list_files() else ()


def test_a_cancelled_study_goes_on_and_what_it_spent_stays_spent(study):
    out, _, before = study
    assert before
    assert charges(ledger_store(out))[: len(before)] == before
    rows = read_trials(out.read_bytes("trials.parquet"))
    assert len(rows) == NUM_TRIALS
    assert {row.status for row in rows} <= {"finished", "stopped"}
    assert max(row.attempts for row in rows) >= 2


def test_its_statement_is_the_composition_of_all_that_was_charged(study):
    out, _, _ = study
    statement = json.loads(out.read_bytes("statement.json"))
    assert statement["epsilon"] == pytest.approx(epsilon_pld(charges(ledger_store(out)), 1e-3), abs=1e-9)
    assert statement["epsilon"] <= statement["target_epsilon"] == 8


def test_the_same_job_again_adds_nothing(study):
    _, logs, _ = study
    first, again = (last_json(logs[name]) for name in ("sweep-2", "again"))
    assert again["statement"] == first["statement"]
    assert [t["attempts"] for t in again["trials"]] == [t["attempts"] for t in first["trials"]]


def test_its_best_spec_on_s3_is_run_at_no_further_cost(study):
    out, logs, _ = study
    answer = last_json(logs["best"])
    assert {s["stage"]: s["skipped"] for s in answer["stages"]}["train"]
    assert read_manifest(out.child(f"best/{layout.EVALUATION}")) is not None
    spent = epsilon_pld(charges(ledger_store(out)), 1e-3)
    assert last_json(logs["sweep-2"])["statement"]["epsilon"] == pytest.approx(spent, abs=1e-9)


def test_its_log_shows_progress_and_no_secret(study):
    _, logs, _ = study
    assert "again (attempt 2)" in logs["sweep-2"]
    assert f"{NUM_TRIALS}/{NUM_TRIALS} done" in logs["sweep-2"]
    assert not any(SECRET in log for log in logs.values())
