"""From a run's spec to its privacy plan: the one place where settings become the numbers that privacy/ works with."""

from __future__ import annotations

from rapid_dist.privacy.plan import PrivacyPlan, calibrated_plan
from rapid_dist.specs import RunSpec


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
