"""DP-SGD over a group of workers: the one loop that trains on private records.

One step, top to bottom: inclusion by record -> clipped sum here -> sum over workers -> one noise on the global sum
-> divide by the public constant -> Adam -> average. The ledger has been charged for the step before it begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.clipping import clipped_gradient_sum
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import Ledger
from rapid_dist.privacy.noise import add_noise_on_grid, draw_gaussian
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.specs import ScheduleSpec, TrainingSpec
from rapid_dist.training.collective import Collective, on_rank_zero
from rapid_dist.training.private_batch import PrivatePartition, make_private_batch
from rapid_dist.training.state import CheckpointFolder, TrainState


@dataclass(frozen=True, kw_only=True)
class PrivateAttempt:
    """One attempt at private training: its number, its fresh key, and the ledger that pays (rank 0 only)."""

    number: int
    key: RunKey
    ledger: Ledger | None


def noised_mean_gradient(
    local_sum: torch.Tensor,
    *,
    plan: PrivacyPlan,
    attempt: PrivateAttempt,
    step: int,
    collective: Collective,
) -> torch.Tensor:
    """The released gradient: global clipped sum plus one Gaussian noise, over the public normaliser.

    local_sum: (P,) float64, this worker's clipped sum, overwritten. Returns (P,) float64 in units of max_grad_norm,
    the same on every worker. Each worker adds the noise of its own slice of coordinates to the global sum and the
    slices are then joined, so each coordinate is noised once whatever the number of workers.

    Guarantee: N(0, (noise_multiplier * max_grad_norm)^2) on every coordinate of the global sum, keyed by
    (key, attempt, step, coordinate), rounded to a grid after adding.
    """
    total = collective.sum(local_sum)
    size = len(total)
    start = size * collective.rank // collective.world_size
    stop = size * (collective.rank + 1) // collective.world_size
    noise = draw_gaussian(
        attempt.key,
        attempt=attempt.number,
        step=step,
        first_coordinate=start,
        num_coordinates=stop - start,
        stddev=plan.noise_stddev,
    )
    joined = torch.zeros_like(total)
    noised = add_noise_on_grid(total[start:stop].cpu(), torch.as_tensor(noise), plan.grid)
    joined[start:stop] = noised.to(total.device)
    return collective.sum(joined) / (plan.expected_batch_size * plan.max_grad_norm)


def learning_rate_factor(step: int, training: TrainingSpec) -> float:
    """1, then a straight line to 0 over the last decay_fraction of the steps."""
    left = (training.steps - step) / max(training.steps * training.decay_fraction, 1e-9)
    return min(1.0, left)


def _charge_block(
    attempt: PrivateAttempt, plan: PrivacyPlan, training: TrainingSpec, step: int, collective: Collective
) -> int:
    """Charges the next block of steps durably and returns how many steps it pays for; 0 when nothing fits."""

    def charge() -> int:
        wanted = min(training.checkpoint_every, training.steps - step)
        paid = attempt.ledger.affordable_steps(plan.training_charge(1), wanted)
        if paid > 0:
            attempt.ledger.charge(plan.training_charge(paid), attempt=attempt.number, first_step=step)
        return paid

    return on_rank_zero(collective, charge)


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
) -> bool:
    """Runs from state.step to training.steps; returns False when the budget ran out before the last step.

    Every worker calls it with the same arguments but its own partition. Checkpoints are written by rank 0.

    Guarantee: before a step's noise exists, its charge is durable in the ledger; a step that cannot be paid for
    is not taken.
    """
    if attempt.key.is_private != plan.is_private:
        raise PrivacyError("the run key and the plan disagree on whether this is a debugging run; make both anew")
    parameters = list(state.model.parameters())
    while state.step < training.steps:
        paid = _charge_block(attempt, plan, training, state.step, collective)
        if paid == 0:
            return False
        for step in range(state.step, state.step + paid):
            included = draw_inclusion(
                attempt.key,
                attempt=attempt.number,
                step=step,
                example_ids=partition.example_id,
                sample_rate=plan.sample_rate,
            )
            batch = make_private_batch(
                partition,
                included,
                step=step,
                training=training,
                schedule=schedule,
                alphas_cumprod=alphas_cumprod,
                num_conditions=num_conditions,
                device=device,
            )
            local_sum = clipped_gradient_sum(
                state.model,
                batch,
                max_grad_norm=plan.max_grad_norm,
                max_physical_batch_size=max_physical_batch_size,
            )
            gradient = noised_mean_gradient(local_sum, plan=plan, attempt=attempt, step=step, collective=collective)
            _set_gradients(parameters, gradient)
            state.apply(learning_rate_factor=learning_rate_factor(step, training))
            on_step(state.step)
        if collective.rank == 0:
            checkpoints.save(state)
    return True


def _set_gradients(parameters: list[torch.nn.Parameter], flat: torch.Tensor) -> None:
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].reshape(p.shape).to(p.dtype)
        start += p.numel()
