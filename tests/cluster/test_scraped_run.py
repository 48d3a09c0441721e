"""A real Prometheus scrapes a tiny run, and what it read is what the run did."""

from __future__ import annotations

import pytest

from rapid_dist.metrics import catalog
from rapid_dist.metrics.prometheus import metrics_endpoint
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.metrics.steps import PRIVATE_BLOCK_STEPS
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.run import Run
from rapid_dist.specs import load_spec
from rapid_dist.storage.store import Store
from tests.cluster.files import OF_STUDIES, alert_rules, dashboard_queries, metrics_in
from tests.cluster.prometheus_server import running_prometheus, wait_for
from tests.tiny import SETTINGS, tiny_settings, write_spec

pytestmark = pytest.mark.cluster


# Two whole blocks of private steps, and some more.
PRIVATE_STEPS = 2 * PRIVATE_BLOCK_STEPS + 5


@pytest.fixture(scope="module")
def scraped(ray_cluster, tiny_sources, tmp_path_factory):
    """(the run, a Prometheus that scraped it to its end)."""
    folder = tmp_path_factory.mktemp("scraped")
    settings = tiny_settings(tiny_sources, training={"steps": PRIVATE_STEPS})
    run = Run(load_spec(str(write_spec(folder / "spec.yaml", settings))), Store(folder / "out"))
    with (
        metrics_endpoint(0) as port,
        running_prometheus(folder / "prometheus", {"rapid-dist": f"127.0.0.1:{port}"}) as prometheus,
    ):
        run.run_stages()
        wait_for(lambda: prometheus.value('rapid_dist_stage_running{stage="evaluate"}') == 0)
        yield run, prometheus


def test_epsilon_is_what_the_ledger_says(scraped):
    run, prometheus = scraped
    ledger = read_ledger(run.ledger)
    assert prometheus.value("rapid_dist_spent_epsilon") == pytest.approx(ledger.spent_epsilon())
    assert prometheus.value("rapid_dist_target_epsilon") == SETTINGS["privacy"]["target_epsilon"]
    assert prometheus.value("rapid_dist_ledger_attempts") == len(ledger.attempts)
    assert prometheus.value("rapid_dist_ledger_entries") == len(run.ledger.list_files())
    assert prometheus.value("sum(rapid_dist_ledger_failures_total)") == 0


def test_steps_examples_samples_and_queries_are_what_was_done(scraped):
    _, prometheus = scraped
    pretrain, extractor, sampling = (SETTINGS[k] for k in ("pretrain", "extractor", "sampling"))
    steps = {dict(k)["loop"]: v for k, v in prometheus.query("rapid_dist_steps_total").items()}
    assert steps == {"denoiser": pretrain["steps"], "extractor": extractor["steps"], "private": PRIVATE_STEPS}
    examples = 'rapid_dist_expected_examples_total{loop="denoiser"}'
    assert prometheus.value(examples) == pretrain["steps"] * pretrain["batch_size"]
    privacy = SETTINGS["privacy"]
    expected = privacy["sample_rate"] * privacy["nominal_size"] * PRIVATE_STEPS
    assert prometheus.value('rapid_dist_expected_examples_total{loop="private"}') == expected
    phases = {dict(k)["phase"]: v for k, v in prometheus.query("rapid_dist_private_phase_seconds_total").items()}
    assert set(phases) == {"ledger", "data", "gradient", "noise", "all_reduce", "update", "checkpoint"}
    assert all(seconds == int(seconds) for seconds in phases.values())
    samples = {dict(k)["model"]: v for k, v in prometheus.query("rapid_dist_samples_total").items()}
    assert samples == {"private": sampling["num_samples"], "public": sampling["num_samples"]}
    queries = {dict(k)["source"]: v for k, v in prometheus.query(catalog.QUERIES.name).items()}
    assert queries["sample"] == sampling["num_samples"]
    assert set(queries) == {"sample", "recall"}


def test_what_waits_is_empty_and_no_stage_is_at_work_at_the_end(scraped):
    _, prometheus = scraped
    depths = {dict(k)["work"]: v for k, v in prometheus.query("rapid_dist_queue_depth").items()}
    assert depths == dict.fromkeys(set(catalog.PUBLIC_WORK) - {"values"}, 0)  # values alone are made by studies only
    stages = {dict(k)["stage"]: v for k, v in prometheus.query("rapid_dist_stage_running").items()}
    names = {"ingest public", "ingest private", "ingest test", "pretrain", "build-kb", "train", "sample"}
    assert stages == dict.fromkeys({*names, "sample public-only", "evaluate"}, 0)
    starts = {dict(k)["stage"]: v for k, v in prometheus.query(catalog.WORKER_GROUP_STARTS.name).items()}
    assert starts == {"pretrain": 1, "train": 1}


def test_every_dashboard_query_has_an_answer(scraped):
    _, prometheus = scraped
    queries = {name: q for name, q in dashboard_queries().items() if not metrics_in(q) & OF_STUDIES}
    answers = {name: prometheus.query(q.replace("$run", "tiny")) for name, q in queries.items()}
    assert [name for name, answer in answers.items() if not answer] == []


def test_every_alert_rule_is_evaluated_without_error_and_none_fires_on_a_healthy_run(scraped):
    _, prometheus = scraped

    def evaluated():
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = {rule["name"]: rule for rule in wait_for(evaluated)}
    assert set(rules) == set(alert_rules())
    assert {rule["health"] for rule in rules.values()} == {"ok"}
    assert {name for name, rule in rules.items() if rule["state"] == "firing"} == set()


def test_through_rays_agent_the_same_names_arrive_and_nothing_else(ray_cluster, tmp_path):
    from rapid_dist.runtime.mailbox import RaySink
    from rapid_dist.runtime.session import start_ray

    start_ray()
    import ray

    recorder = Recorder(RaySink(), {"run": "on-ray"})
    recorder.set(catalog.SPENT_EPSILON, 3.5)
    recorder.add(catalog.STEPS, 0, loop="private")
    recorder.add(catalog.STEPS, 40, loop="private")
    recorder.observe(catalog.QUERY_SECONDS, 0.02, source="sample")
    agent = f"127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}"
    with running_prometheus(tmp_path / "prometheus", {"ray": agent}) as prometheus:
        wait_for(lambda: prometheus.value('rapid_dist_spent_epsilon{run="on-ray"}') == 3.5)
        wait_for(lambda: prometheus.value('rapid_dist_steps_total{run="on-ray", loop="private"}') == 40)
        wait_for(lambda: prometheus.value("sum(rapid_dist_knowledge_base_query_seconds_count)") == 1)
        names = set(prometheus.get("label/__name__/values"))
    about_scrapes = {"up", "ALERTS", "ALERTS_FOR_STATE"}
    ours = {n for n in names if not n.startswith("scrape_") and n not in about_scrapes}
    parts = {f"{catalog.QUERY_SECONDS.name}{part}" for part in ("_bucket", "_sum", "_count")}
    gauge_copy = catalog.STEPS.name.removesuffix("_total")  # Ray shows each counter a second time as a gauge
    assert ours - {gauge_copy} == {catalog.SPENT_EPSILON.name, catalog.STEPS.name, *parts}
