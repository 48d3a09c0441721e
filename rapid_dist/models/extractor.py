"""The feature extractor: an MLP over estimates of x0, trained so that two noisy views of one image agree."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from rapid_dist.models.denoisers import init_parameters
from rapid_dist.specs import ExtractorSpec


class Extractor(nn.Module):
    """Estimate of x0 (B, *latent_shape) float32 -> unit-norm feature (B, feature_dim). No layer mixes examples."""

    def __init__(self, spec: ExtractorSpec, *, latent_shape: tuple[int, ...], generator: torch.Generator):
        super().__init__()
        self.first = nn.Linear(math.prod(latent_shape), spec.width)
        self.second = nn.Linear(spec.width, spec.width)
        self.leave = nn.Linear(spec.width, spec.feature_dim)
        self.project = nn.Linear(spec.feature_dim, spec.feature_dim)
        init_parameters(self, generator)

    def _features(self, x0: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.first(x0.flatten(1)))
        h = F.silu(self.second(F.layer_norm(h, h.shape[1:])))
        return self.leave(F.layer_norm(h, h.shape[1:]))

    def forward(self, x0: torch.Tensor) -> torch.Tensor:
        return F.normalize(self._features(x0), dim=1)

    def projected(self, x0: torch.Tensor) -> torch.Tensor:
        """The head that the contrastive loss sees (SimCLR, Chen et al. 2020, section 2)."""
        return F.normalize(self.project(F.silu(self._features(x0))), dim=1)


def contrastive_loss(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent (SimCLR, Eq. 1) of two views (B, d) each of unit norm; the positive of row i is row i of the other."""
    both = torch.cat([first, second])
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(float("-inf"))
    size = len(first)
    partner = torch.arange(2 * size, device=both.device).roll(size)
    return F.cross_entropy(similarity, partner)
