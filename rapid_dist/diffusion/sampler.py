"""DDIM over a list of timesteps, with class guidance and a count of denoiser evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rapid_dist.diffusion.process import estimate_x0

Denoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def predict_noise(
    denoiser: Denoiser, x_t: torch.Tensor, timestep: int, condition: torch.Tensor, guidance: float
) -> torch.Tensor:
    """Noise prediction with classifier-free guidance (Ho and Salimans 2022, Eq. 6); guidance 0 is off."""
    t = torch.full((len(x_t),), timestep, dtype=torch.int64, device=x_t.device)
    conditional = denoiser(x_t, t, condition)
    if guidance == 0:
        return conditional
    unconditional = denoiser(x_t, t, torch.zeros_like(condition))
    return (1 + guidance) * conditional - guidance * unconditional


def evaluations_per_step(guidance: float) -> int:
    """Denoiser evaluations one sampler step takes."""
    return 1 if guidance == 0 else 2


@torch.no_grad()
def run_ddim(
    denoiser: Denoiser,
    x_t: torch.Tensor,
    timesteps: Sequence[int],
    *,
    alphas_cumprod: torch.Tensor,
    condition: torch.Tensor,
    guidance: float = 0.0,
    eta: float = 0.0,
    step_noise: torch.Tensor | None = None,
    clip_x0: float | None = None,
) -> torch.Tensor:
    """Walks the falling timesteps from the state x_t at the first of them to x0 (DDIM, Song et al. 2021, Eq. 12).

    x_t: (B, ...) float32; condition: (B, num_conditions); step_noise: (B, len(timesteps) - 1, ...), needed when
    eta > 0. Returns the x0 estimate after the last timestep, (B, ...). Each timestep costs
    evaluations_per_step(guidance) evaluations.
    """
    for i, timestep in enumerate(timesteps):
        noise = predict_noise(denoiser, x_t, timestep, condition, guidance)
        t = torch.full((len(x_t),), timestep, dtype=torch.int64, device=x_t.device)
        x0 = estimate_x0(x_t, t, noise, alphas_cumprod)
        a = alphas_cumprod[timestep].item()
        if clip_x0 is not None:
            x0 = x0.clamp(-clip_x0, clip_x0)
            noise = (x_t - a**0.5 * x0) / (1 - a) ** 0.5
        if i + 1 == len(timesteps):
            return x0
        a_next = alphas_cumprod[timesteps[i + 1]].item()
        sigma = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
        x_t = a_next**0.5 * x0 + max(1 - a_next - sigma**2, 0.0) ** 0.5 * noise
        if sigma > 0:
            x_t = x_t + sigma * step_noise[:, i]
    return x_t
