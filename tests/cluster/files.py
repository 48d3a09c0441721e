"""What the Prometheus and Grafana files hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from rapid_dist.metrics import catalog

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "cluster" / "prometheus"
OF_STUDIES = {m.name for m in (catalog.PLANNED_TRIALS, catalog.TRIALS, catalog.BEST_SCORE)}
DASHBOARD = ROOT / "cluster" / "grafana" / "dashboard.json"


def dashboard() -> dict:
    return json.loads(DASHBOARD.read_text())


def dashboard_queries() -> dict[str, str]:
    """'panel title / A' -> query, with the run variable still in it."""
    return {f"{p['title']} / {t['refId']}": t["expr"] for p in dashboard()["panels"] for t in p["targets"]}


def alert_rules() -> dict[str, str]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\brapid_dist_\w+", expression))
