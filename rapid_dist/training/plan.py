"""From a run's spec to its privacy plan, and to all that private training needs to know besides its records."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rapid_dist.privacy.plan import PrivacyPlan, calibrated_plan
from rapid_dist.specs import RunSpec, ScheduleSpec, TrainingSpec


@dataclass(frozen=True, kw_only=True)
class PrivateRun:
    """The public constants of private training, the same on every worker.

    alphas_cumprod: (num_train_timesteps,) float64, on the device. num_conditions: width of the one-hot condition.
    max_physical_batch_size: examples times draws in memory at once; it changes no result. device: where the model is.
    """

    plan: PrivacyPlan
    training: TrainingSpec
    schedule: ScheduleSpec
    alphas_cumprod: torch.Tensor
    num_conditions: int
    max_physical_batch_size: int
    device: str = "cpu"


def private_run(spec: RunSpec, plan: PrivacyPlan, alphas_cumprod: torch.Tensor, *, device: str) -> PrivateRun:
    """Returns the constants of a run's private training."""
    return PrivateRun(
        plan=plan,
        training=spec.training,
        schedule=spec.schedule,
        alphas_cumprod=alphas_cumprod,
        num_conditions=spec.data.num_classes,
        max_physical_batch_size=spec.runtime.max_physical_batch_size,
        device=device,
    )


def build_plan(spec: RunSpec) -> PrivacyPlan:
    """Returns the plan of a run, its noise calibrated so that votes, all steps and spare steps fit the target.

    Noise that the spec states is taken as it is. Raises SpecError when it, or the votes alone, exceed the target.
    """
    privacy = spec.privacy
    return calibrated_plan(
        target_epsilon=privacy.target_epsilon,
        target_delta=privacy.target_delta,
        neighboring_relation=privacy.neighboring_relation,
        unit=privacy.unit,
        sample_rate=privacy.sample_rate,
        expected_batch_size=privacy.expected_batch_size,
        max_grad_norm=privacy.max_grad_norm,
        noise_multiplier=privacy.noise_multiplier,
        steps=spec.training.steps,
        spare_steps=privacy.spare_steps,
        votes_noise_multiplier=privacy.votes_noise_multiplier,
        is_private=privacy.debug_fixed_key is None,
    )
