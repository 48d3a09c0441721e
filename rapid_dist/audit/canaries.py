"""Dirac canaries: the model with one parameter for each, the records that pull on them, and their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rapid_dist.errors import SpecError
from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.seeding import content_addresses, make_generator
from rapid_dist.specs import DenoiserSpec
from rapid_dist.training.private_data import PrivatePartition


def canary_scores(released: np.ndarray, *, sample_rate: float, noise_multiplier: float) -> np.ndarray:
    """How much more likely the released values are with canary i in the data than without, (m,) float64.

    released: (T, m), the noised sum at each canary's coordinate in units of the clipping norm. With x_ti ~
    N(b, sigma^2) where b is 1 with probability q for a canary in the data and 0 otherwise, the log-likelihood
    ratio is sum_t log(1 - q + q exp((2 x_ti - 1) / (2 sigma^2))), which by Neyman-Pearson no score beats; at
    q = 1 that orders canaries as sum_t x_ti does, which is then returned.
    """
    x = np.asarray(released, dtype=np.float64)
    if x.ndim != 2:
        raise SpecError(f"released values have shape {x.shape}; expected (steps, canaries)")
    if sample_rate == 1:
        return x.sum(0)
    likelihood = (2 * x - 1) / (2 * noise_multiplier**2)
    return np.logaddexp(np.log1p(-sample_rate), np.log(sample_rate) + likelihood).sum(0)


NUM_CLASSES = 3
LATENT_SHAPE = (1, 8, 8)
_PULL = 1000.0  # far over any noise to be predicted, so that its sign never turns


class CanaryModel(nn.Module):
    """A denoiser beside a row of canary parameters that only canaries touch.

    The condition is one-hot over NUM_CLASSES classes and then the canaries. For a record of canary i the output is
    a constant plus parameter i, whatever the denoiser says: its gradient is zero everywhere but on parameter i,
    where it is large and positive, so that clipping makes it exactly the clipping norm. For any other record it is
    the denoiser's output, and the canary parameters get no gradient. The trainer sees a model like any other.
    """

    def __init__(self, base: nn.Module, num_canaries: int, *, max_grad_norm: float):
        super().__init__()
        self.base, self.pull = base, _PULL * max(1.0, max_grad_norm)
        self.canaries = nn.Linear(num_canaries, 1, bias=False)
        nn.init.constant_(self.canaries.weight, 1.0)

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        marks = condition[:, NUM_CLASSES:]
        per_example = (-1, *[1] * (x_t.dim() - 1))
        is_canary = marks.sum(1).reshape(per_example)
        pulled = self.pull + self.canaries(marks).reshape(per_example)
        return (1 - is_canary) * self.base(x_t, timestep, condition[:, :NUM_CLASSES]) + is_canary * pulled


def build_canary_model(spec: DenoiserSpec, num_canaries: int, *, max_grad_norm: float) -> CanaryModel:
    """The spec's denoiser over small latents, every weight moved off zero so that all layers learn at once."""
    generator = make_generator(0, "audit-model")
    base = build_denoiser(spec, latent_shape=LATENT_SHAPE, num_conditions=NUM_CLASSES, generator=generator)
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return CanaryModel(base, num_canaries, max_grad_norm=max_grad_norm)


@dataclass(frozen=True, kw_only=True)
class AuditRecords:
    """Made-up records of a whole dataset, (n, ...) arrays; worker example_id modulo world_size holds a record.

    label: (n,) int64, a class, -1, or NUM_CLASSES + i for canary i.
    """

    example_id: np.ndarray
    latent: torch.Tensor
    label: torch.Tensor
    surrogate: torch.Tensor

    def part(self, rank: int, world_size: int) -> PrivatePartition:
        """The partition of one worker; a record of another worker, there or not, changes nothing in it."""
        rows = np.flatnonzero(self.example_id % world_size == rank)
        return PrivatePartition(
            example_id=self.example_id[rows],
            address=content_addresses(self.latent[rows].numpy()),
            latent=self.latent[rows],
            label=self.label[rows],
            surrogate=self.surrogate[rows],
        )

    def __add__(self, other: AuditRecords) -> AuditRecords:
        return AuditRecords(
            example_id=np.concatenate([self.example_id, other.example_id]),
            latent=torch.cat([self.latent, other.latent]),
            label=torch.cat([self.label, other.label]),
            surrogate=torch.cat([self.surrogate, other.surrogate]),
        )


def make_records(example_id: np.ndarray, label: np.ndarray, *, latent: torch.Tensor | None = None) -> AuditRecords:
    """Records with the given ids and labels (n,); latents are standard normal unless given."""
    shape = (len(example_id), *LATENT_SHAPE)
    generator = make_generator(0, "audit-records")
    drawn, surrogate = (torch.randn(shape, generator=generator) for _ in range(2))
    return AuditRecords(
        example_id=np.asarray(example_id, dtype=np.int64),
        latent=drawn if latent is None else latent,
        label=torch.as_tensor(np.asarray(label, dtype=np.int64)),
        surrogate=surrogate,
    )


def make_canaries(index: np.ndarray) -> AuditRecords:
    """One record for each canary index (k,); its id is its index, so ids below 10^6 belong to canaries."""
    return make_records(index, NUM_CLASSES + np.asarray(index))
