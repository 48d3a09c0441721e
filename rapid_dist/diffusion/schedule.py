"""The noise schedule: alphas_cumprod over the timesteps, and the grids a sampler walks."""

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
