"""Networks that predict the noise: one file each and one entry in the table.

Every denoiser is called as f(x_t, timestep, condition) with x_t (B, *latent_shape) float32, timestep (B,) int64
and condition (B, num_conditions) float32, a one-hot row a class or zeros for no class. No layer mixes examples.
"""

from __future__ import annotations

import torch

from rapid_dist.diffusion.denoisers.residual_mlp import ResidualMlp
from rapid_dist.diffusion.denoisers.unet import UNet
from rapid_dist.specs import DenoiserSpec

DENOISERS = {"residual_mlp": ResidualMlp, "unet": UNet}


def build_denoiser(
    spec: DenoiserSpec, *, latent_shape: tuple[int, ...], num_conditions: int, generator: torch.Generator
) -> torch.nn.Module:
    """A freshly initialised denoiser on the CPU; num_conditions may be 0 (unconditional)."""
    return DENOISERS[spec.kind](spec, latent_shape=latent_shape, num_conditions=num_conditions, generator=generator)


def one_hot_condition(label: torch.Tensor, num_conditions: int) -> torch.Tensor:
    """(B,) int64 -> (B, num_conditions) float32; a negative label is no class: a row of zeros."""
    condition = torch.zeros(len(label), num_conditions, device=label.device)
    known = label >= 0
    condition[known.nonzero().squeeze(1), label[known]] = 1.0
    return condition
