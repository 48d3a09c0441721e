"""Where the private run starts: the public run to query_step, a query, and the value of the trajectory found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from rapid_dist.diffusion.process import add_noise, public_timesteps, value_timestep
from rapid_dist.diffusion.sampler import run_ddim
from rapid_dist.knowledge_base.search import TrajectorySearch, allowed_public_labels, nearest_trajectories
from rapid_dist.models.denoisers import one_hot_condition
from rapid_dist.models.public import PublicModels
from rapid_dist.privacy.statistics import ClassGaussians
from rapid_dist.seeding import draw_integers, draw_normals, draw_uniforms
from rapid_dist.specs import RunSpec

PROTOTYPE_NEIGHBORS = 16  # entries of a drawn prototype, nearest to the public state, that a sample may start from


@dataclass(frozen=True, kw_only=True)
class VotedPrototypes:
    """shares: (classes, prototypes) from noisy votes; labels: (prototypes, public classes) public shares."""

    shares: np.ndarray
    labels: np.ndarray


def _pick(shares: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Index drawn from each row of shares (n, m) by the uniform (n,) in [0, 1); -1 for a row of zeros."""
    cumulative = shares.cumsum(1)
    index = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(1)
    return np.where(cumulative[:, -1] > 0, index.clip(max=shares.shape[1] - 1), -1)


def draw_prototypes(voted: VotedPrototypes, label: np.ndarray, index: np.ndarray, seed: int) -> np.ndarray:
    """A prototype for each sample (n,), drawn from its class's shares; a function of the sample's index."""
    return _pick(voted.shares[label], draw_uniforms(seed, "prototype", index, 1)[:, 0])


def public_labels(
    spec: RunSpec, label: np.ndarray, prototype: np.ndarray | None, voted: VotedPrototypes | None, index: np.ndarray
) -> np.ndarray:
    """The public class each sample's public run is asked for, (n,) int64; -1 where nothing is known.

    Voted starts take a class of the drawn prototype; else one of those the label map gives.
    """
    uniform = draw_uniforms(spec.sampling.seed, "public-label", index, 1)[:, 0]
    if voted is not None and prototype is not None:
        return _pick(voted.labels[prototype], uniform)
    chosen = np.full(len(label), -1, dtype=np.int64)
    for private_class in np.unique(label):
        allowed = sorted(allowed_public_labels(spec.knowledge_base.label_map, int(private_class)))
        if allowed:
            rows = np.flatnonzero(label == private_class)
            chosen[rows] = np.asarray(allowed)[(uniform[rows] * len(allowed)).astype(np.int64)]
    return chosen


def draw_starts(
    spec: RunSpec, models: PublicModels, gaussians: ClassGaussians, index: np.ndarray, label: np.ndarray, *, device: str
) -> torch.Tensor:
    """Starts (n, *latent_shape) float32 at the split: a draw of the class's Gaussian, noised to the value's timestep.

    No denoiser is evaluated. With split_step 0 the draw itself is the result.
    """
    shape, seed = models.latent_shape, spec.sampling.seed
    normals = draw_normals(seed, "statistics", index, (math.prod(shape),))
    part = draw_uniforms(seed, "statistics-part", index, 1)[:, 0]
    drawn = gaussians.draw(label.clip(min=0), part, normals.astype(np.float64))
    x0 = torch.from_numpy(drawn.astype(np.float32)).reshape(len(index), *shape).to(device)
    if spec.schedule.split_step == 0:
        return x0
    noise = torch.from_numpy(draw_normals(seed, "start", index, shape)).to(device)
    timestep = torch.full((len(index),), value_timestep(spec.schedule), dtype=torch.int64, device=device)
    return add_noise(x0, timestep, noise, models.alphas_cumprod)


def retrieve_starts(
    spec: RunSpec,
    models: PublicModels,
    search: TrajectorySearch,
    index: np.ndarray,
    label: np.ndarray,
    voted: VotedPrototypes | None,
    *,
    device: str,
) -> torch.Tensor:
    """Starts (n, *latent_shape) float32 at the split for samples index (n,) of private classes label (n,).

    The public run goes from pure noise to query_step and no further; its last estimate of x0 makes the key.
    """
    sampling = spec.sampling
    prototype = None if voted is None else draw_prototypes(voted, label, index, sampling.seed)
    asked = torch.from_numpy(public_labels(spec, label, prototype, voted, index)).to(device)
    x_t = torch.from_numpy(draw_normals(sampling.seed, "start", index, models.latent_shape)).to(device)
    timesteps = public_timesteps(spec.schedule, sampling.num_steps)
    step_noise = None
    if sampling.eta > 0:
        shape = (len(timesteps) - 1, *models.latent_shape)
        step_noise = torch.from_numpy(draw_normals(sampling.seed, "public-step", index, shape)).to(device)
    estimate = run_ddim(
        models.denoiser,
        x_t,
        timesteps,
        alphas_cumprod=models.alphas_cumprod,
        condition=one_hot_condition(asked, models.num_public_classes),
        eta=sampling.eta,
        step_noise=step_noise,
    )
    with torch.no_grad():
        keys = models.extractor(estimate).cpu().numpy()
    if prototype is not None:
        # A different draw of the neighbour's rank spreads samples over the prototype's entries.
        rank = draw_integers(sampling.seed, "rank", index, 1, below=PROTOTYPE_NEIGHBORS)[:, 0]
        found = search.query_within(keys, num_neighbors=PROTOTYPE_NEIGHBORS, column="prototype", allowed=prototype)
        available = (found.trajectory_id >= 0).sum(1).clip(min=1)
        nearest = found.trajectory_id[np.arange(len(index)), rank % available]
    else:
        nearest = nearest_trajectories(keys, label, search, spec.knowledge_base.label_map)
    return torch.from_numpy(search.values_of(nearest)).to(device)
