"""A denoiser with one more parameter per canary, and the records that pull on one of them each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rapid_dist.diffusion.denoisers import build_denoiser
from rapid_dist.seeding import content_addresses, make_generator
from rapid_dist.specs import DenoiserSpec
from rapid_dist.training.private_batch import PrivatePartition

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
