"""The loop that trains on public images: average the gradient over workers, step, keep an average, checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rapid_dist.metrics.steps import StepMeter, silent_meter
from rapid_dist.training.collective import Collective
from rapid_dist.training.state import CheckpointFolder, TrainState


def train_publicly(
    state: TrainState,
    loss_fn: Callable[[int], torch.Tensor],
    *,
    steps: int,
    collective: Collective,
    checkpoints: CheckpointFolder,
    checkpoint_every: int = 500,
    on_step: Callable[[int], None] = lambda step: None,
    meter: StepMeter | None = None,
) -> None:
    """Runs from state.step to steps; loss_fn(step) is this worker's mean loss at that step.

    The learning rate follows a half cosine to zero. Resumes from the newest checkpoint by itself; rank 0 writes.
    """
    saved = checkpoints.latest()
    if saved is not None:
        state.load_bytes(saved)
    meter = meter or silent_meter()
    meter.begin(state.step)
    parameters = list(state.model.parameters())
    while state.step < steps:
        with meter.phase("gradient"):
            loss = loss_fn(state.step)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        with meter.phase("all_reduce"):
            flat = collective.sum(torch.cat([g.reshape(-1) for g in parts])) / collective.world_size
        with meter.phase("update"):
            state.set_gradients(flat)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            state.apply(learning_rate_factor=0.5 * (1 + torch.cos(torch.tensor(torch.pi * state.step / steps)).item()))
        on_step(state.step)
        if collective.rank == 0 and (state.step % checkpoint_every == 0 or state.step == steps):
            with meter.phase("checkpoint"):
                checkpoints.save(state)
        meter.step_done(state.step)
    meter.close()
