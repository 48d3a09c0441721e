"""A whole run as a Ray job on a cluster of several nodes, seen by a real Prometheus through Ray's agents."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rapid_dist import layout
from rapid_dist.artifacts.storage import Store
from rapid_dist.metrics.catalog import CATALOG
from rapid_dist.privacy.ledger import read_ledger
from tests.cluster.conftest import ROOT
from tests.cluster.prometheus_server import running_prometheus, wait_for
from tests.cluster.ray_jobs import RayJobs
from tests.tiny import SETTINGS, tiny_settings, write_spec

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def scraped(local_cluster, tiny_sources, tmp_path_factory):
    """(the run's folder, a Prometheus that found the nodes by itself and scraped the job to its end)."""
    folder, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("out") / "run"
    for name in ("rapid_dist", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_spec(folder / "spec.yaml", tiny_settings(tiny_sources, runtime={"num_cpus": None}))
    jobs = RayJobs(local_cluster, folder)
    nodes = Path(local_cluster.head.temp_folder) / "prom_metrics_service_discovery.json"
    with running_prometheus(tmp_path_factory.mktemp("scrapes") / "prometheus", {"ray": nodes}) as prometheus:
        wait_for(lambda: len(prometheus.query("up == 1")) and prometheus.value("count(up == 1)") >= 3)
        jobs.submit("run", "jobs/run.py", "--spec", "spec.yaml", "--out", str(out), wait=False)
        jobs.wait_for_end("run", 900)
        yield Store(out), prometheus


def highest(prometheus, expression: str) -> float | None:
    """The highest value ever seen: the series of a driver end with it."""
    return prometheus.value(f"max(max_over_time({expression}[1h]))")


def test_epsilon_is_what_the_ledger_says(scraped):
    run, prometheus = scraped
    ledger = read_ledger(run.child(f"{layout.PRIVATE_IMAGES}/{layout.LEDGER}"))
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


def test_nothing_but_the_catalog_was_kept(scraped):
    _, prometheus = scraped
    names = {n for n in prometheus.get("label/__name__/values") if not n.startswith(("scrape_", "ALERTS", "up"))}
    parts = {f"{m.name}{part}" for m in CATALOG.values() for part in ("_bucket", "_sum", "_count")}
    # Ray shows each counter a second time, as a gauge without its ending.
    twice = {name.removesuffix("_total") for name in CATALOG}
    assert names
    assert names <= set(CATALOG) | parts | twice
