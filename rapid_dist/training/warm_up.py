"""The private model before its first private step: trained on draws of what was released, free of charge.

Draws of released class statistics are post-processing of a charged release, so any number of steps on them costs
nothing; the private steps that follow need to teach only what a Gaussian a class cannot say (the warm-up of DP-FETA,
Gong et al. 2025, in latents and with second moments).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.metrics.steps import StepMeter
from rapid_dist.privacy.statistics import ClassGaussians
from rapid_dist.seeding import draw_integers, draw_normals, draw_uniforms
from rapid_dist.specs import RunSpec
from rapid_dist.storage.store import Store
from rapid_dist.training.collective import Collective
from rapid_dist.training.plan import PrivateRun, fitted_statistics
from rapid_dist.training.private_data import PrivatePartition, make_private_batch
from rapid_dist.training.public import train_publicly
from rapid_dist.training.state import CheckpointFolder, TrainState


def warm_up(
    model: torch.nn.Module,
    released: np.ndarray | None,
    spec: RunSpec,
    run: PrivateRun,
    latent_shape: tuple[int, ...],
    *,
    collective: Collective,
    out: Store,
    notes_fn: Callable[[], Mapping[str, str]] = dict,
    on_step: Callable[[int], None] = lambda step: None,
    recorder: Recorder | None = None,
) -> None:
    """Trains the model in place by the loss of private training, on draws instead of records.

    It resumes from its own checkpoints. Without training.warm_up nothing happens.

    Args:
        released: (classes * parts, size), the class statistics with noise, the same on every worker.
        latent_shape: Of a latent; draws are flat.
        out: Where checkpoints lie, in a folder for each release.
        notes_fn: Returns what the header of a checkpoint says, see state.release_stamp; asked on rank 0, and only where
            there is a warm-up: what was not released has no statement.
        on_step: Hears of each step done.

    Guarantee: the model is a function of `released` and public values. A checkpoint made from another release is never
    resumed from, so nothing enters a run that its ledger does not count.
    """
    training, section = spec.training, spec.pretrain
    if training.warm_up == "none" or released is None:
        return
    gaussians = fitted_statistics(spec, released, latent_shape, run.plan.statistics_noise_multiplier)
    draws = max(1, section.batch_size // (training.noise_multiplicity * collective.world_size))

    def loss(step: int) -> torch.Tensor:
        first = (step * collective.world_size + collective.rank) * draws
        partition = _drawn(gaussians, spec, np.arange(first, first + draws), latent_shape)
        batch = make_private_batch(partition, np.ones(draws, dtype=bool), run, step=step)
        return denoising_loss(model, *batch.rows()).mean()

    state = TrainState(model, learning_rate=section.learning_rate, ema_decay=section.ema_decay)
    train_publicly(
        state,
        loss,
        steps=training.warm_up_steps,
        collective=collective,
        checkpoints=CheckpointFolder(out.child(f"warm_up-{_digest(released)}"), keep=1),
        notes=notes_fn() if collective.rank == 0 else None,
        on_step=on_step,
        meter=StepMeter(
            recorder or Recorder(),
            loop="warm_up",
            planned_steps=training.warm_up_steps,
            expected_batch_size=section.batch_size,
        ),
    )
    model.load_state_dict(state.averaged_weights())


def _digest(released: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(released, dtype="<f8").tobytes()).hexdigest()[:16]


def _drawn(
    gaussians: ClassGaussians, spec: RunSpec, index: np.ndarray, latent_shape: tuple[int, ...]
) -> PrivatePartition:
    """Draws by their numbers, as if they were records: draw i is a function of (training.seed, i)."""
    seed, classes = spec.training.seed, spec.data.num_classes
    label = draw_integers(seed, "warm-up-label", index, 1, below=max(1, classes))[:, 0]
    normals = draw_normals(seed, "warm-up", index, (math.prod(latent_shape),))
    part = draw_uniforms(seed, "warm-up-part", index, 1)[:, 0]
    latent = gaussians.draw(label, part, normals.astype(np.float64)).astype(np.float32)
    return PrivatePartition(
        example_id=index.astype(np.uint64),
        address=index.astype(np.uint64),
        latent=torch.from_numpy(latent).reshape(len(index), *latent_shape),
        label=torch.from_numpy(label if classes else np.full(len(index), -1)),
        surrogate=None,
    )
