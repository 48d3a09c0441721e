"""One worker's private records, and the noised batch that a step makes of those included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rapid_dist.diffusion.denoisers import one_hot_condition
from rapid_dist.diffusion.forward import add_noise
from rapid_dist.diffusion.losses import OBJECTIVES
from rapid_dist.diffusion.schedule import value_timestep
from rapid_dist.privacy.clipping import PrivateBatch
from rapid_dist.seeding import draw_integers, draw_normals, draw_uniforms
from rapid_dist.specs import ScheduleSpec, TrainingSpec


@dataclass(frozen=True, kw_only=True)
class PrivatePartition:
    """The private records one worker holds.

    example_id: (n,) int64, the record's place in its data set, which only the secret draws of inclusion may use;
    address: (n,) uint64, the digest of its own pixels, by which public draws find it (seeding.content_addresses);
    latent: (n, *latent_shape) float32; label: (n,) int64, -1 for none;
    surrogate: (n, *latent_shape) float32, each record's own retrieved value, or None.
    """

    example_id: np.ndarray
    address: np.ndarray
    latent: torch.Tensor
    label: torch.Tensor
    surrogate: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.example_id)


def make_private_batch(
    partition: PrivatePartition,
    included: np.ndarray,
    *,
    step: int,
    training: TrainingSpec,
    schedule: ScheduleSpec,
    alphas_cumprod: torch.Tensor,
    num_conditions: int,
    device: str,
) -> PrivateBatch:
    """The batch of the included records (n,) bool at this step.

    Timesteps, diffusion noise and label dropout are functions of (seed, step, content of the record), so neither the
    worker that holds a record, nor its place in the data set, nor the other records change them.

    Guarantee: row i is a function of the content of record i and public values alone.
    """
    index = np.flatnonzero(included)
    address, draws = partition.address[index], training.noise_multiplicity
    latent = partition.latent[index]
    timestep = draw_timesteps(training, schedule, step, address)
    noise = draw_normals(training.seed, f"noise-{step}", address, (draws, *latent.shape[1:]))
    kept = draw_uniforms(training.seed, f"label-{step}", address, 1)[:, 0] >= training.label_dropout
    label = torch.where(torch.from_numpy(kept), partition.label[index], -1)

    x0 = latent.to(device).repeat_interleave(draws, dim=0)
    surrogate = partition.surrogate
    if surrogate is not None:
        surrogate = surrogate[index].to(device).repeat_interleave(draws, dim=0)
    flat_timestep = torch.from_numpy(timestep).flatten().to(device)
    flat_noise = torch.from_numpy(noise).flatten(0, 1).to(device)
    objective = OBJECTIVES[training.objective]
    target = objective(x0, flat_noise, surrogate, value_timestep(schedule), alphas_cumprod)
    x_t = add_noise(x0, flat_timestep, target, alphas_cumprod)
    shape = (len(index), draws, *latent.shape[1:])
    return PrivateBatch(
        x_t=x_t.reshape(shape),
        noise=target.reshape(shape),
        timestep=flat_timestep.reshape(len(index), draws),
        condition=one_hot_condition(label.to(device), num_conditions),
    )


def draw_timesteps(training: TrainingSpec, schedule: ScheduleSpec, step: int, address: np.ndarray) -> np.ndarray:
    """Timesteps below the split, (n, noise_multiplicity) int64, by the law of training.timestep_power.

    floor(split_step * u^power): the share of draws below a timestep t is (t / split_step)^(1 / power).
    """
    role, draws = f"timestep-{step}", training.noise_multiplicity
    if training.timestep_power == 1:
        return draw_integers(training.seed, role, address, draws, below=schedule.split_step)
    uniform = draw_uniforms(training.seed, role, address, draws)
    drawn = (schedule.split_step * uniform**training.timestep_power).astype(np.int64)
    return drawn.clip(max=schedule.split_step - 1)
