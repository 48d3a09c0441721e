"""What every worker of private training does once it holds its records and its first weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.specs import ScheduleSpec, TrainingSpec
from rapid_dist.training.collective import Collective, agree, on_rank_zero
from rapid_dist.training.private_batch import PrivatePartition
from rapid_dist.training.private_loop import PrivateAttempt, train_privately
from rapid_dist.training.state import CheckpointFolder, TrainState


def open_attempt(plan, *, ledger, job, debug_fixed_key, collective) -> PrivateAttempt:
    """A new attempt with a fresh key: rank 0 writes it into the ledger, the key travels in memory only."""
    number = on_rank_zero(collective, lambda: ledger.begin_attempt(plan.to_plain()))
    key = RunKey.fresh() if debug_fixed_key is None else RunKey.fixed_for_debugging(debug_fixed_key)
    key = RunKey.from_bytes(collective.broadcast(key.export_bytes()))
    return PrivateAttempt(number=number, key=key, ledger=ledger if collective.rank == 0 else None)


def run_attempt(
    model: torch.nn.Module,
    partition: PrivatePartition,
    *,
    plan: PrivacyPlan,
    attempt: PrivateAttempt,
    training: TrainingSpec,
    checkpoints: CheckpointFolder,
    collective: Collective,
    begun: Callable[[TrainState], None] = lambda state: None,
    **settings,
) -> tuple[TrainState, bool]:
    state = TrainState(model, learning_rate=training.learning_rate, ema_decay=training.ema_decay)
    saved = agree(collective, checkpoints.latest)
    if saved is not None:
        agree(collective, lambda: state.load_bytes(saved))
    completed = train_privately(
        state,
        partition,
        plan=plan,
        attempt=attempt,
        training=training,
        checkpoints=checkpoints,
        collective=collective,
        **settings,
    )
    return state, completed
