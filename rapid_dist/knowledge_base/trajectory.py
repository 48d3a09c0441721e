"""The one road to a key: a latent at query_step, the public model's estimate of x0, the feature extractor.

Public images when the knowledge base is built, private ones in training, and the public model's own state in
sampling all take it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rapid_dist.diffusion.process import add_noise, estimate_x0, value_timestep
from rapid_dist.diffusion.sampler import Denoiser, predict_noise
from rapid_dist.errors import InputError
from rapid_dist.seeding import draw_normals
from rapid_dist.specs import ScheduleSpec

Extract = Callable[[torch.Tensor], torch.Tensor]


def trajectory_noise(seed: int, item_ids: np.ndarray, latent_shape: tuple[int, ...]) -> torch.Tensor:
    """The forward noise of each item's trajectory, (n, *latent_shape) float32; a function of the item's id."""
    return torch.from_numpy(draw_normals(seed, "trajectory", item_ids, latent_shape))


@torch.no_grad()
def keys_of_latents(
    latent: torch.Tensor,
    noise: torch.Tensor,
    *,
    denoiser: Denoiser,
    extract: Extract,
    schedule: ScheduleSpec,
    alphas_cumprod: torch.Tensor,
    num_conditions: int,
) -> torch.Tensor:
    """Key (n, feature_dim) of each latent (n, *latent_shape), noised to query_step with the given noise.

    The public model is asked without a class, so a key never depends on a label.

    Guarantee: row i is a function of row i of the inputs and of public weights alone.
    """
    timestep = torch.full((len(latent),), schedule.query_step, dtype=torch.int64, device=latent.device)
    x_t = add_noise(latent, timestep, noise, alphas_cumprod)
    condition = torch.zeros(len(latent), num_conditions, device=latent.device)
    predicted = predict_noise(denoiser, x_t, schedule.query_step, condition, 0.0)
    return extract(estimate_x0(x_t, timestep, predicted, alphas_cumprod))


def values_of_latents(
    latent: torch.Tensor, noise: torch.Tensor, *, schedule: ScheduleSpec, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """Value (n, *latent_shape): the same forward path as the key's, where the private model takes over."""
    timestep = torch.full((len(latent),), value_timestep(schedule), dtype=torch.int64, device=latent.device)
    return add_noise(latent, timestep, noise, alphas_cumprod)


def rows_of_ids(trajectory_id: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row (n,) int64 of each wanted id among trajectory_id (n,), which holds the same ids in another order.

    Raises InputError when it does not, or holds an id twice.
    """
    if len(trajectory_id) != len(wanted) or not np.array_equal(np.sort(trajectory_id), np.unique(wanted)):
        raise InputError(
            f"got {len(trajectory_id)} trajectories for {len(wanted)} rows; expected the same ids, each once"
        )
    order = np.argsort(trajectory_id)
    return order[np.searchsorted(trajectory_id, wanted, sorter=order)]
