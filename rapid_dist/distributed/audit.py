"""The audit on a Ray Train worker group: the same training as the train stage's, on made-up records, watched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rapid_dist.artifacts.storage import Store
from rapid_dist.distributed.worker_group import run_workers
from rapid_dist.privacy.audit.verdict import AuditResult
from rapid_dist.specs import RuntimeSpec
from rapid_dist.telemetry import Progress
from rapid_dist.training.audit.battery import num_runs, run_battery
from rapid_dist.training.audit.settings import AuditSettings
from rapid_dist.training.collective import Collective

AUDIT = "audit"


def run_audit(settings: AuditSettings, runtime: RuntimeSpec, work: Store) -> AuditResult:
    """Runs every layer on at least two workers. work: an empty folder that all of them see.

    No private record is read: canaries and all other records are made up, so an audit costs no budget.
    """
    runtime = replace(runtime, num_workers=max(2, runtime.num_workers), max_failures=0)
    answer = run_workers(audit_worker, {"settings": settings, "work": work}, runtime=runtime, name=AUDIT)
    return answer["result"]


def audit_worker(collective: Collective, arguments: dict[str, Any]) -> dict[str, Any]:
    """What every worker of an audit does."""
    settings = arguments["settings"]
    progress = Progress(AUDIT, num_runs(settings), say_fn=arguments["say"])
    result = run_battery(collective, settings, arguments["work"], told=progress.update)
    return {} if result is None else {"result": result}
