"""A whole run and a study as Ray jobs on a cluster of several nodes, seen by a real Prometheus through Ray's agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapid_dist.metrics.catalog import CATALOG
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.storage.store import Store
from rapid_dist.tune.trials import read_trials
from tests.cluster.files import OF_STUDIES, dashboard_queries, metrics_in
from tests.cluster.prometheus_server import running_prometheus, wait_for
from tests.cluster.ray_jobs import RayJobs, checkout, ledger_store
from tests.tiny import SETTINGS, tiny_settings, write_spec

pytestmark = pytest.mark.cluster

STUDY = "tiny-study"


@pytest.fixture(scope="module")
def scraped(local_cluster, tiny_sources, tmp_path_factory):
    """(the folder of both, a Prometheus that found the nodes by itself and scraped the jobs to their ends)."""
    folder, out = checkout(tmp_path_factory.mktemp("checkout")), tmp_path_factory.mktemp("out")
    settings = tiny_settings(tiny_sources, runtime={"num_cpus": None})
    write_spec(folder / "spec.yaml", settings)
    tune = {"mode": "compose", "num_trials": 2, "num_scored_samples": 40, "classifier_epochs": 1}
    tune["space"] = {"training.learning_rate": {"log": [1.0e-4, 1.0e-2]}}
    write_spec(folder / "study.yaml", {**settings, "name": STUDY, "tune": tune})
    jobs = RayJobs(local_cluster, folder)
    nodes = Path(local_cluster.head.temp_folder) / "prom_metrics_service_discovery.json"
    with running_prometheus(tmp_path_factory.mktemp("scrapes") / "prometheus", {"ray": nodes}) as prometheus:
        wait_for(lambda: len(prometheus.query("up == 1")) and prometheus.value("count(up == 1)") >= 3)
        jobs.submit("run", "jobs/run.py", "--spec", "spec.yaml", "--out", str(out / "run"), wait=False)
        jobs.wait_for_end("run", 900)
        jobs.submit("study", "jobs/sweep.py", "--spec", "study.yaml", "--out", str(out / "study"), wait=False)
        jobs.wait_for_end("study", 900)
        yield Store(out), prometheus


def highest(prometheus, expression: str) -> float | None:
    """The highest value ever seen: the series of a driver end with it."""
    return prometheus.value(f"max(max_over_time({expression}[1h]))")


def test_epsilon_is_what_the_ledger_says(scraped):
    out, prometheus = scraped
    ledger = read_ledger(ledger_store(out.child("run")))
    assert highest(prometheus, 'rapid_dist_spent_epsilon{run="tiny"}') == pytest.approx(ledger.spent_epsilon())
    assert highest(prometheus, "rapid_dist_target_epsilon") == SETTINGS["privacy"]["target_epsilon"]


def test_work_of_other_nodes_is_counted_once(scraped):
    _, prometheus = scraped
    assert highest(prometheus, 'rapid_dist_steps_total{loop="denoiser"}') == SETTINGS["pretrain"]["steps"]
    assert highest(prometheus, 'rapid_dist_steps_total{loop="private"}') == SETTINGS["training"]["steps"]
    assert highest(prometheus, 'rapid_dist_samples_total{model="private"}') == SETTINGS["sampling"]["num_samples"]
    queries = 'rapid_dist_knowledge_base_queries_total{source="sample"}'
    assert highest(prometheus, queries) == SETTINGS["sampling"]["num_samples"]
    assert highest(prometheus, "rapid_dist_ledger_failures_total") in (None, 0)


def test_of_a_study_its_trials_and_their_total_are_seen(scraped):
    out, prometheus = scraped
    ledger = read_ledger(ledger_store(out.child("study")))
    of = f'{{run="{STUDY}"}}'
    assert highest(prometheus, f"rapid_dist_spent_epsilon{of}") == pytest.approx(ledger.spent_epsilon())
    assert highest(prometheus, f"rapid_dist_planned_trials{of}") == 2
    assert highest(prometheus, f'rapid_dist_trials{{run="{STUDY}", status="finished"}}') == 2
    scores = [row.score for row in read_trials(out.read_bytes("study/trials.parquet"))]
    assert highest(prometheus, f"rapid_dist_best_score{of}") == pytest.approx(max(scores))


def test_every_dashboard_query_of_a_study_has_an_answer(scraped):
    _, prometheus = scraped
    queries = {name: q.replace("$run", STUDY) for name, q in dashboard_queries().items() if metrics_in(q) & OF_STUDIES}
    assert len(queries) == 3
    unanswered = [name for name, q in queries.items() if not prometheus.query(f"max_over_time(({q})[1h:5s])")]
    assert unanswered == []


def test_nothing_but_the_catalog_was_kept(scraped):
    _, prometheus = scraped
    names = {n for n in prometheus.get("label/__name__/values") if not n.startswith(("scrape_", "ALERTS", "up"))}
    parts = {f"{m.name}{part}" for m in CATALOG.values() for part in ("_bucket", "_sum", "_count")}
    # Ray shows each counter a second time, as a gauge without its ending.
    twice = {name.removesuffix("_total") for name in CATALOG}
    assert names
    assert names <= set(CATALOG) | parts | twice
