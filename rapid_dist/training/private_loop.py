"""DP-SGD over a group of workers: the one loop that trains on private records.

One step, top to bottom: inclusion by record -> clipped sum here -> sum over workers -> one noise on the global sum
-> divide by the public constant -> Adam -> average. The ledger has been charged for the step before it begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from rapid_dist.metrics.recorder import Recorder
from rapid_dist.metrics.steps import PrivateStepMeter, TimedCollective
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger_book import DEFAULT_JOB
from rapid_dist.privacy.paid import PaidSteps
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.specs import ScheduleSpec, TrainingSpec
from rapid_dist.training.checkpoint_stamp import checkpoint_stamp
from rapid_dist.training.collective import Collective, on_rank_zero
from rapid_dist.training.private_batch import PrivatePartition, make_private_batch
from rapid_dist.training.state import CheckpointFolder, TrainState


class Payer(Protocol):
    """What pays for steps: a Ledger, or a client of one that lives in another process."""

    def charge_up_to(self, charge_like: Charge, up_to: int, *, attempt: int, first_step: int) -> PaidSteps | None:
        """Spends as many steps as fit, durably; None when not one does."""


@dataclass(frozen=True, kw_only=True)
class PrivateAttempt:
    """One attempt at private training: its number, its fresh key, and the ledger that pays (rank 0 only).

    job: the name under which the ledger keeps all attempts of this run. statement_fn: what the ledger says now, in
    one line, for the header of a checkpoint.
    """

    number: int
    key: RunKey
    ledger: Payer | None
    job: str = DEFAULT_JOB
    statement_fn: Callable[[], str] = str


def learning_rate_factor(step: int, training: TrainingSpec) -> float:
    """1, then a straight line to 0 over the last decay_fraction of the steps."""
    left = (training.steps - step) / max(training.steps * training.decay_fraction, 1e-9)
    return min(1.0, left)


def _pay_for_block(
    attempt: PrivateAttempt, plan: PrivacyPlan, training: TrainingSpec, step: int, collective: Collective
) -> PaidSteps | None:
    """Charges the next block of steps durably and hands every worker the receipt; None when nothing fits."""

    def charge() -> dict[str, Any] | None:
        wanted = min(training.checkpoint_every, training.steps - step)
        paid = attempt.ledger.charge_up_to(plan.training_charge(1), wanted, attempt=attempt.number, first_step=step)
        return None if paid is None else paid.to_dict()

    receipt = on_rank_zero(collective, charge)
    return None if receipt is None else PaidSteps.from_dict(receipt)


def train_privately(
    state: TrainState,
    partition: PrivatePartition,
    *,
    plan: PrivacyPlan,
    attempt: PrivateAttempt,
    training: TrainingSpec,
    schedule: ScheduleSpec,
    alphas_cumprod: torch.Tensor,
    num_conditions: int,
    collective: Collective,
    checkpoints: CheckpointFolder,
    max_physical_batch_size: int,
    device: str = "cpu",
    on_step: Callable[[int], None] = lambda step: None,
    on_block: Callable[[TrainState], None] = lambda state: None,
    meter: PrivateStepMeter | None = None,
) -> bool:
    """Runs from state.step to training.steps; returns False when the budget ran out before the last step.

    Every worker calls it with the same arguments but its own partition. Checkpoints are written by rank 0.
    on_block hears of every paid block once its checkpoint is written, on every worker alike.

    Guarantee: before a step's noise exists, its charge is durable in the ledger; a step that cannot be paid for
    is not taken.
    """
    plan.require_key(attempt.key)
    meter = meter or PrivateStepMeter(Recorder(), planned_steps=training.steps, expected_batch_size=0)
    meter.begin(state.step)
    while state.step < training.steps:
        with meter.ledger_write():
            paid = _pay_for_block(attempt, plan, training, state.step, collective)
        if paid is None:
            meter.close()
            return False
        for private_step in plan.private_steps(attempt.key, paid):
            with meter.phase("data"):
                batch = make_private_batch(
                    partition,
                    private_step.included(partition.example_id),
                    step=private_step.number,
                    training=training,
                    schedule=schedule,
                    alphas_cumprod=alphas_cumprod,
                    num_conditions=num_conditions,
                    device=device,
                )
            with meter.phase("gradient"):
                local_sum = private_step.clipped_sum(
                    state.model, batch, max_physical_batch_size=max_physical_batch_size
                )
            with meter.phase("noise"):
                released = private_step.release(local_sum, TimedCollective(collective, meter))
            with meter.phase("update"):
                state.set_gradients(released)
                state.apply(learning_rate_factor=learning_rate_factor(private_step.number, training))
            on_step(state.step)
            meter.step_done(state.step)
        if collective.rank == 0:
            with meter.phase("checkpoint"):
                checkpoints.save(state, checkpoint_stamp(plan, attempt.job, paid, attempt.statement_fn()))
        on_block(state)
    meter.close()
    return True
