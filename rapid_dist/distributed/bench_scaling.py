"""Runs the scaling benchmark on a group of two workers of Ray Train, paid for through the ledger's actor."""

from __future__ import annotations

import tempfile
from dataclasses import replace

from rapid_dist.artifacts.storage import Store
from rapid_dist.bench.scaling import Scaling, ScalingSettings, scaling_worker, summarise_scaling
from rapid_dist.distributed.ledger_actor import ledger_actor
from rapid_dist.distributed.session import ray_session, start_ray
from rapid_dist.distributed.worker_group import run_workers
from rapid_dist.privacy.plan import build_plan
from rapid_dist.specs import RunSpec


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
