"""The noise a denoiser is asked to predict, by objective, and the loss per example."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rapid_dist.diffusion.forward import noise_towards

TargetNoise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, int, torch.Tensor], torch.Tensor]


def _fresh(x0, fresh_noise, surrogate, value_timestep, alphas_cumprod):
    """denoise: the example's own forward process with fresh Gaussian noise."""
    return fresh_noise


def _surrogate(x0, fresh_noise, surrogate, value_timestep, alphas_cumprod):
    """surrogate: the noise that leads from the example to the retrieved latent at the value's timestep.

    x_t then lies on the deterministic path from the retrieved latent to the example, so training starts
    where sampling will start.
    """
    timestep = torch.full((len(x0),), value_timestep, dtype=torch.int64, device=x0.device)
    return noise_towards(x0, timestep, surrogate, alphas_cumprod)


OBJECTIVES: dict[str, TargetNoise] = {"denoise": _fresh, "surrogate": _surrogate}


def loss_per_example(predicted_noise: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Mean squared error over all but the first dimension (DDPM, Eq. 14): (B, ...) -> (B,)."""
    return (predicted_noise - noise).square().flatten(1).mean(1)
