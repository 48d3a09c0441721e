"""Pieces that denoisers share: the timestep embedding and initialisation by a given generator."""

from __future__ import annotations

import math

import torch
from torch import nn


def embed_timestep(timestep: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017, section 3.5) of (B,) int64 into (B, dim) float32; dim is even."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=timestep.device) / half)
    angle = timestep.to(torch.float32)[:, None] * frequency[None, :]
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def init_parameters(module: nn.Module, generator: torch.Generator) -> None:
    """Kaiming-uniform weights and zero biases for every Linear and convolution, drawn from the generator."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def zero_init(layer: nn.Linear | nn.Conv2d) -> None:
    """Makes a residual branch start as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
