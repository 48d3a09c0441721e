"""Prometheus and Grafana files: they name only declared metrics, and promtool accepts and tests them."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from rapid_dist.metrics.catalog import CATALOG
from tests.cluster.files import PROMETHEUS, alert_rules, dashboard, dashboard_queries, metrics_in
from tests.tools import find_debian_tool

HISTOGRAM_PARTS = {f"{m.name}{part}" for m in CATALOG.values() if m.kind == "histogram" for part in ("_bucket", "_sum")}


def promtool(*arguments):
    command = [find_debian_tool("promtool", package="prometheus"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROMETHEUS)


@pytest.mark.parametrize(("where", "query"), {**dashboard_queries(), **alert_rules()}.items())
def test_queries_name_declared_metrics(where, query):
    assert metrics_in(query)
    assert metrics_in(query) <= set(CATALOG) | HISTOGRAM_PARTS


def test_every_metric_is_shown_on_the_dashboard():
    shown = set().union(*(metrics_in(q) for q in dashboard_queries().values()))
    hidden = {name for name in CATALOG if name not in shown and not any(s.startswith(name) for s in shown)}
    assert hidden == {"rapid_dist_steps_total"}  # what the stall alert counts; the dashboard shows the step reached


def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own():
    panels = dashboard()["panels"]
    assert all(p["title"] and p["description"] and p["targets"] for p in panels)
    assert len({p["id"] for p in panels}) == len(panels)
    cells = [
        (x, y)
        for p in panels
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_query_asks_for_the_chosen_run_only():
    for query in dashboard_queries().values():
        selectors = re.findall(r"rapid_dist_\w+(\{[^}]*\})?", query)
        assert all('run="$run"' in selector for selector in selectors), query


@pytest.mark.parametrize(
    "alert", ["BudgetNearItsEnd", "LedgerUnreachable", "WorkersRestarted", "StepsStalled", "BudgetSpentBeforeSteps"]
)
def test_each_alert_has_a_unit_test_that_sees_it_fire_and_stay_silent(alert):
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    outcomes = [bool(c["exp_alerts"]) for t in tests for c in t["alert_rule_test"] if c["alertname"] == alert]
    assert set(outcomes) == {True, False}
    assert set(alert_rules()) >= {alert}


def test_promtool_accepts_the_configuration_and_the_rules_pass_their_tests():
    config = promtool("check", "config", "prometheus.yml")
    assert config.returncode == 0, config.stderr
    rules = promtool("test", "rules", "rules_test.yml")
    assert rules.returncode == 0, rules.stdout


def test_of_rays_own_page_only_the_catalog_is_kept():
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    (ray,) = [job for job in jobs if job["job_name"] == "ray"]
    keep, rename = ray["metric_relabel_configs"]
    assert keep["action"] == "keep"
    for name in ("ray_data_output_rows", "ray_node_mem_used", "ray_rapid_dist", "rapid_dist_step"):
        assert not re.fullmatch(keep["regex"], name)
    for name in CATALOG:
        kept = re.fullmatch(keep["regex"], f"ray_{name}").group()
        assert re.fullmatch(rename["regex"], kept).group(1) == name


def test_the_readme_lists_the_catalog():
    text = (PROMETHEUS.parent / "README.md").read_text().split("<!-- metrics -->")[1]
    rows = [line for line in text.splitlines() if line.startswith("| `rapid_dist_")]
    assert rows == [
        f"| `{m.name}` | {', '.join(m.labels)} | {m.kind} | {m.unit} | {m.privacy_class} |" for m in CATALOG.values()
    ]


def test_the_readme_lists_the_alerts_with_their_severity():
    text = (PROMETHEUS.parent / "README.md").read_text()
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in groups[0]["rules"]:
        assert f"| {rule['alert']} | {rule['labels']['severity']} |" in text
