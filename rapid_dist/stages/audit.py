"""The audit and the scaling benchmark on groups of workers, on made-up records."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rapid_dist.audit.battery import AuditResult, num_runs, restart_ledger, run_battery
from rapid_dist.audit.trials import AuditSettings, restart_trial
from rapid_dist.bench.scaling import Scaling, ScalingSettings, scaling_worker, summarise_scaling
from rapid_dist.runtime.ledger_actor import ledger_actor
from rapid_dist.runtime.session import ray_session, start_ray
from rapid_dist.runtime.workers import run_workers
from rapid_dist.specs import RunSpec, RuntimeSpec
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import Progress
from rapid_dist.training.collective import Collective
from rapid_dist.training.plan import build_plan

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


def run_scaling(spec: RunSpec, settings: ScalingSettings, out: Store | None = None) -> Scaling:
    """Measures on this machine, or on the cluster of RAY_ADDRESS; ledger and checkpoints are thrown away.

    out: where they lie meanwhile, which all workers see; None is a folder of this machine.
    """
    runtime = replace(
        spec.runtime, device="cpu", num_workers=2, min_workers=None, max_workers=None, num_cpus=2, max_failures=0
    )
    plan = build_plan(spec)
    settings.require_room(plan)
    with tempfile.TemporaryDirectory(prefix="rapid-dist-bench-") as folder, ray_session(runtime):
        work = out or Store(folder)
        start_ray()
        with ledger_actor(work.child("ledger"), **plan.ledger_terms()) as client:
            answer = run_workers(
                scaling_worker,
                {"spec": spec, "plan": plan, "settings": settings, "ledger": client, "out": work.child("checkpoints")},
                runtime=runtime,
                name="bench-scaling",
            )
    return summarise_scaling(answer, spec, plan, settings)
