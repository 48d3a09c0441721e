"""A residual MLP over flat latents: the CPU default.

All its parameters belong to Linear layers used once, so exact per-example gradient norms come from activations
and output gradients alone (privacy.clipping).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from rapid_dist.diffusion.denoisers.layers import embed_timestep, init_parameters, zero_init
from rapid_dist.specs import DenoiserSpec


class ResidualMlp(nn.Module):
    """x_t (B, *latent_shape) float32 -> predicted noise of the same shape."""

    def __init__(
        self,
        spec: DenoiserSpec,
        *,
        latent_shape: tuple[int, ...],
        num_conditions: int,
        generator: torch.Generator,
    ):
        super().__init__()
        self.latent_shape, self.embedding_dim = tuple(latent_shape), spec.embedding_dim
        size, width, embedding = math.prod(latent_shape), spec.width, spec.embedding_dim
        self.embed_time = nn.Linear(embedding, embedding)
        self.embed_class = nn.Linear(num_conditions, embedding, bias=False) if num_conditions else None
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(_Block(width, embedding) for _ in range(spec.num_blocks))
        self.leave = nn.Linear(width, size)
        self.skip = nn.Linear(embedding, size)
        init_parameters(self, generator)
        for block in self.blocks:
            zero_init(block.second)
        zero_init(self.leave)
        zero_init(self.skip)
        if self.embed_class is not None:
            nn.init.normal_(self.embed_class.weight, std=1.0, generator=generator)

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        c = self.embed_time(embed_timestep(timestep, self.embedding_dim))
        if self.embed_class is not None:
            c = c + self.embed_class(condition)
        c = F.silu(c)
        x = x_t.flatten(1)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, c)
        h = F.layer_norm(h, h.shape[1:])
        # x_t itself is nearly the noise at late timesteps: a gate per coordinate passes it through.
        return (self.leave(F.silu(h)) + x * self.skip(c)).reshape(-1, *self.latent_shape)


class _Block(nn.Module):
    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.shift = nn.Linear(embedding, width, bias=False)
        self.second = nn.Linear(width, width)

    def forward(self, h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        inner = self.first(F.layer_norm(h, h.shape[1:])) + self.shift(c)
        return h + self.second(F.silu(inner))
