"""The forward process and its inverses for a known noise."""

from __future__ import annotations

import torch


def _level(alphas_cumprod: torch.Tensor, timestep: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    a = alphas_cumprod[timestep].to(like.dtype)
    return a.reshape(-1, *[1] * (like.dim() - 1))


def add_noise(x0: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor):
    """Returns x_t of the forward process (DDPM, Eq. 4).

    x0, noise: (B, ...) float32; timestep: (B,) int64; alphas_cumprod: (T,) float64.
    """
    a = _level(alphas_cumprod, timestep, x0)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def estimate_x0(x_t: torch.Tensor, timestep: torch.Tensor, predicted_noise: torch.Tensor, alphas_cumprod: torch.Tensor):
    """Returns the estimate of x0 that a noise prediction implies (DDPM, Eq. 15). Shapes as add_noise."""
    a = _level(alphas_cumprod, timestep, x_t)
    return (x_t - (1 - a).sqrt() * predicted_noise) / a.sqrt()


def noise_towards(x0: torch.Tensor, timestep: torch.Tensor, x_t: torch.Tensor, alphas_cumprod: torch.Tensor):
    """Returns the noise n for which add_noise(x0, timestep, n) is x_t; add_noise solved for the noise."""
    a = _level(alphas_cumprod, timestep, x0)
    return (x_t - a.sqrt() * x0) / (1 - a).sqrt()
