"""The audit on a Ray Train worker group: the same training as the train stage's, on made-up records, watched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rapid_dist.artifacts.storage import Store
from rapid_dist.distributed.ledger_actor import ledger_actor
from rapid_dist.distributed.session import start_ray
from rapid_dist.distributed.worker_group import run_workers
from rapid_dist.privacy.audit.verdict import AuditResult
from rapid_dist.specs import RuntimeSpec
from rapid_dist.telemetry import Progress
from rapid_dist.training.audit.battery import num_runs, restart_ledger, run_battery
from rapid_dist.training.audit.settings import AuditSettings
from rapid_dist.training.audit.trials import restart_trial
from rapid_dist.training.collective import Collective

AUDIT = "audit"
Worker = Callable[[Collective, dict[str, Any]], dict[str, Any]]


def run_audit(
    settings: AuditSettings, runtime: RuntimeSpec, work: Store, *, worker: Worker | None = None
) -> AuditResult:
    """Runs every layer on at least two workers. work: an empty folder that all of them see.

    worker: what each worker runs instead of audit_worker, for tests of the audit.

    No private record is read: canaries and all other records are made up, so an audit costs no budget.
    """
    start_ray()
    with ledger_actor(restart_ledger(work), **restart_trial(settings).plan.ledger_terms()) as client:
        arguments = {"settings": settings, "work": work, "restart_book": client}
        return run_workers(worker or audit_worker, arguments, runtime=audit_runtime(runtime), name=AUDIT)["result"]


def audit_runtime(runtime: RuntimeSpec) -> RuntimeSpec:
    """The runtime with at least two workers, room for them, and no second try: a worker that dies is a finding."""
    num_cpus = None if runtime.num_cpus is None else max(2, runtime.num_cpus)
    return replace(runtime, num_workers=max(2, runtime.num_workers), num_cpus=num_cpus, max_failures=0)


def audit_worker(collective: Collective, arguments: dict[str, Any]) -> dict[str, Any]:
    """What every worker of an audit does."""
    settings = arguments["settings"]
    progress = Progress(AUDIT, num_runs(settings), say_fn=arguments["say"])
    result = run_battery(
        collective,
        settings,
        arguments["work"],
        told=progress.update,
        restart_book=arguments["restart_book"],
    )
    return {} if result is None else {"result": result}
