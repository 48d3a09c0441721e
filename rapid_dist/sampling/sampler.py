"""A function that draws images of a private model, with its base and its votes bound once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rapid_dist.artifacts.models import PublicModels
from rapid_dist.artifacts.prototypes import prototype_label_shares
from rapid_dist.retrieval.interface import TrajectorySearch
from rapid_dist.sampling.images import sample_private
from rapid_dist.sampling.starts import VotedPrototypes
from rapid_dist.specs import RunSpec
from rapid_dist.training.class_start import vote_shares

Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]


def private_sampler(
    spec: RunSpec,
    models: PublicModels,
    denoiser: torch.nn.Module,
    search: TrajectorySearch | None,
    noisy_votes: np.ndarray | None,
    *,
    num_prototypes: int,
    device: str,
) -> Draw:
    """draw(index (n,), label (n,)) -> images (n, C, H, W) uint8; post-processing of the model and the votes.

    noisy_votes: (classes, prototypes), needed where sampling.starts is votes.
    """
    voted = None
    if search is not None and spec.sampling.starts == "votes":
        voted = VotedPrototypes(
            shares=vote_shares(noisy_votes, spec.privacy.votes_noise_multiplier),
            labels=prototype_label_shares(search, num_prototypes, models.num_public_classes),
        )

    def draw(index: np.ndarray, label: np.ndarray) -> np.ndarray:
        return sample_private(spec, models, denoiser, search, voted, index, label, device=device)

    return draw
