"""What keys and values of public trajectories are made of: the latents of images and the noise of each trajectory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rapid_dist.artifacts.images import read_images
from rapid_dist.artifacts.manifest import FileEntry
from rapid_dist.artifacts.models import PublicModels, encode_pixels
from rapid_dist.artifacts.storage import Store
from rapid_dist.retrieval.trajectory import trajectory_noise, values_of_latents
from rapid_dist.specs import RunSpec

BATCH_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """Some trajectories before they are noised: trajectory_id, label (n,); latent, noise (n, *latent_shape)."""

    trajectory_id: np.ndarray
    label: np.ndarray
    latent: torch.Tensor
    noise: torch.Tensor

    def value(self, spec: RunSpec, models: PublicModels) -> np.ndarray:
        """The values of the batch as a base holds them, (n, *latent_shape) float16."""
        shared = {"schedule": spec.schedule, "alphas_cumprod": models.alphas_cumprod}
        return values_of_latents(self.latent, self.noise, **shared).cpu().numpy().astype("float16")


def latent_batches(
    spec: RunSpec, images: Store, parts: Sequence[FileEntry], models: PublicModels, first_id: int
) -> Iterator[LatentBatch]:
    """All trajectories of some image parts, always in the same batches: a network may round by its batch's size."""
    device, draws = spec.runtime.device, spec.knowledge_base.num_trajectories_per_image
    for entry in parts:
        table = read_images(images, entry)
        for first in range(0, len(table), BATCH_ROWS):
            rows = slice(first, first + BATCH_ROWS)
            trajectory_id = first_id + (table.example_id[rows][:, None] * draws + np.arange(draws)).reshape(-1)
            latent = encode_pixels(models.autoencoder, torch.tensor(table.image[rows]), device=device)
            yield LatentBatch(
                trajectory_id=trajectory_id,
                label=np.repeat(table.label[rows], draws),
                latent=latent.repeat_interleave(draws, dim=0).to(device),
                noise=trajectory_noise(spec.pretrain.seed, trajectory_id, models.latent_shape).to(device),
            )
