"""Layers of the audit on threads as workers, with settings that take seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rapid_dist.audit.battery import Runs, canary_layer, replay_layer, restart_layer
from rapid_dist.audit.checks import Check, violations
from rapid_dist.audit.trials import AuditSettings
from rapid_dist.storage.store import Store
from tests.training.helpers import returned, run_workers

SMALL = AuditSettings(
    num_canaries=1000, num_sampled=300, restart_steps=80, steps=60, full_batch_rounds=3, sampled_rounds=1
)


def _full_batch(settings: AuditSettings, run: Runs) -> tuple[Check, ...]:
    result, checks = canary_layer(settings, run, is_full_batch=True)
    return (*checks, *result.checks(), result.strength())


LAYERS: dict[str, Callable[[AuditSettings, Runs], tuple[Check, ...]]] = {
    "replay": replay_layer,
    "restart": restart_layer,
    "canaries": _full_batch,
}


def found_by(layer: str, path: Any, *, settings: AuditSettings = SMALL, world_size: int = 2) -> str:
    """The words of the violations that one layer finds in the trainer as it is now, one a line."""

    def work(collective):
        runs = Runs(collective, Store(path), lambda done, name: None, {})
        return LAYERS[layer](settings, runs)

    return "\n".join(check.words for check in violations(returned(run_workers(world_size, work))[0]))
