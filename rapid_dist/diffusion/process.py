"""The diffusion process: noise schedule, forward process, and the training loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from rapid_dist.specs import ScheduleSpec


def _linear(spec: ScheduleSpec) -> torch.Tensor:
    """DDPM (Ho et al. 2020), section 4: betas rise linearly."""
    betas = torch.linspace(spec.beta_start, spec.beta_end, spec.num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


def _cosine(spec: ScheduleSpec) -> torch.Tensor:
    """Improved DDPM (Nichol and Dhariwal 2021), Eq. 17, with betas capped at 0.999."""
    edges = torch.arange(spec.num_train_timesteps + 1, dtype=torch.float64) / spec.num_train_timesteps
    f = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0)


SCHEDULES: dict[str, Callable[[ScheduleSpec], torch.Tensor]] = {"linear": _linear, "cosine": _cosine}


def make_alphas_cumprod(spec: ScheduleSpec) -> torch.Tensor:
    """alphas_cumprod (T,) float64, falling; timestep 0 is the cleanest."""
    return SCHEDULES[spec.kind](spec)


def value_timestep(spec: ScheduleSpec) -> int:
    """The timestep whose noise level a trajectory's value has: the highest the private model is trained on."""
    return spec.split_step - 1


def public_timesteps(spec: ScheduleSpec, num_steps: int) -> list[int]:
    """Falling timesteps of the public run, T-1 to query_step inclusive; the last one makes the retrieval key.

    num_steps is what a full run from T-1 to 0 would take; this part takes its share of them.
    """
    total, query = spec.num_train_timesteps, spec.query_step
    share = max(2, math.ceil(num_steps * (total - query) / total))
    return _falling(total - 1, query, share)


def private_timesteps(spec: ScheduleSpec, num_steps: int) -> list[int]:
    """Falling timesteps of the private run, split_step-1 to 0 inclusive, its share of num_steps."""
    share = max(1, math.ceil(num_steps * spec.split_step / spec.num_train_timesteps))
    return _falling(value_timestep(spec), 0, share)


def full_timesteps(spec: ScheduleSpec, num_steps: int) -> list[int]:
    """Falling timesteps of a run from T-1 to 0."""
    return _falling(spec.num_train_timesteps - 1, 0, num_steps)


def _falling(first: int, last: int, count: int) -> list[int]:
    count = min(count, first - last + 1)
    if count == 1:
        return [first]
    return [round(first + (last - first) * i / (count - 1)) for i in range(count)]


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


def denoising_loss(
    model: Callable[..., torch.Tensor],
    x_t: torch.Tensor,
    noise: torch.Tensor,
    timestep: torch.Tensor,
    condition: torch.Tensor,
) -> torch.Tensor:
    """Returns how far each row's predicted noise is from its noise (DDPM, Eq. 14), (B,) float32.

    x_t, noise: (B, ...) float32; timestep: (B,) int64; condition: (B, num_conditions) float32.
    """
    return loss_per_example(model(x_t, timestep, condition), noise)
