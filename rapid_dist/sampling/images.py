"""Batches of synthetic images: RAPID's private road, and the public-only road it is compared with."""

from __future__ import annotations

import numpy as np
import torch

from rapid_dist.artifacts.models import PublicModels
from rapid_dist.diffusion.autoencoder import to_pixels
from rapid_dist.diffusion.denoisers import one_hot_condition
from rapid_dist.diffusion.sampler import evaluations_per_step, run_ddim
from rapid_dist.diffusion.schedule import full_timesteps, private_timesteps, public_timesteps
from rapid_dist.retrieval.interface import TrajectorySearch
from rapid_dist.sampling.starts import VotedPrototypes, public_labels, retrieve_starts
from rapid_dist.seeding import draw_normals
from rapid_dist.specs import RunSpec


def evaluations_per_image(spec: RunSpec) -> dict[str, int]:
    """Denoiser evaluations one image takes, and what a run over all timesteps would have taken."""
    schedule, sampling = spec.schedule, spec.sampling
    per_step = evaluations_per_step(sampling.guidance)
    public = len(public_timesteps(schedule, sampling.num_steps)) if schedule.uses_retrieval else 0
    private = len(private_timesteps(schedule, sampling.num_steps)) * per_step
    full = len(full_timesteps(schedule, sampling.num_steps)) * per_step
    return {"public": public, "private": private, "per_image": public + private, "full_run": full}


def _denoise(spec: RunSpec, models: PublicModels, denoiser, x_t, timesteps, condition, index, guidance, *, device):
    sampling = spec.sampling
    step_noise = None
    if sampling.eta > 0 and len(timesteps) > 1:
        shape = (len(timesteps) - 1, *models.latent_shape)
        step_noise = torch.from_numpy(draw_normals(sampling.seed, "step", index, shape)).to(device)
    x0 = run_ddim(
        denoiser,
        x_t,
        timesteps,
        alphas_cumprod=models.alphas_cumprod,
        condition=condition,
        guidance=guidance,
        eta=sampling.eta,
        step_noise=step_noise,
    )
    with torch.no_grad():
        return to_pixels(models.autoencoder.decode(x0)).cpu().numpy()


def sample_private(
    spec: RunSpec,
    models: PublicModels,
    denoiser: torch.nn.Module,
    search: TrajectorySearch | None,
    voted: VotedPrototypes | None,
    index: np.ndarray,
    label: np.ndarray,
    *,
    device: str,
) -> np.ndarray:
    """Images (n, C, H, W) uint8 of the private model; image i depends on (seed, index i, label i) alone."""
    if search is not None:
        x_t = retrieve_starts(spec, models, search, index, label, voted, device=device)
    else:
        x_t = torch.from_numpy(draw_normals(spec.sampling.seed, "start", index, models.latent_shape)).to(device)
    condition = one_hot_condition(torch.from_numpy(label).to(device), spec.data.num_classes)
    timesteps = private_timesteps(spec.schedule, spec.sampling.num_steps)
    return _denoise(spec, models, denoiser, x_t, timesteps, condition, index, spec.sampling.guidance, device=device)


def sample_public_only(
    spec: RunSpec, models: PublicModels, index: np.ndarray, label: np.ndarray, *, device: str
) -> np.ndarray:
    """Images (n, C, H, W) uint8 of the public model alone, epsilon 0.

    A private class is drawn as the public classes that the label map gives it; without a map, as the public class
    of the same number, which is a guess made without looking at private data.
    """
    asked = public_labels(spec, label, None, None, index)
    if not spec.knowledge_base.label_map and models.num_public_classes:
        asked = np.where(label >= 0, label % models.num_public_classes, -1)
    x_t = torch.from_numpy(draw_normals(spec.sampling.seed, "start", index, models.latent_shape)).to(device)
    condition = one_hot_condition(torch.from_numpy(asked).to(device), models.num_public_classes)
    timesteps = full_timesteps(spec.schedule, spec.sampling.num_steps)
    return _denoise(spec, models, models.denoiser, x_t, timesteps, condition, index, 0.0, device=device)
