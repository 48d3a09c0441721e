"""What mechanism is audited, and with how many canaries and runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rapid_dist.errors import SpecError
from rapid_dist.privacy.plan import build_plan
from rapid_dist.specs import DenoiserSpec, RunSpec, ScheduleSpec

_MOST_STEPS, _MOST_WIDTH, _MOST_DRAWS = 1000, 32, 4


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """The mechanism under audit and the size of the audit; the defaults take minutes on two cores.

    num_canaries: canary parameters of one run; *_rounds: independent runs, whose canaries are pooled.
    full_batch_*: the run with every record in every step, 1-GDP by default, where estimates are tight.
    num_sampled: canaries, all of them in the data, of the run that watches inclusion.
    """

    denoiser: DenoiserSpec = field(default_factory=lambda: DenoiserSpec(width=16, num_blocks=1, embedding_dim=8))
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    objective: str = "denoise"
    noise_multiplicity: int = 2
    max_grad_norm: float = 1.0
    sample_rate: float = 0.1
    noise_multiplier: float = 2.0
    steps: int = 200
    delta: float = 1e-5
    num_canaries: int = 2000
    full_batch_rounds: int = 10
    full_batch_steps: int = 100
    full_batch_noise_multiplier: float = 10.0
    sampled_rounds: int = 5
    restart_steps: int = 300
    num_sampled: int = 600
    significance: float = 0.01
    seed: int = 0  # of the coins that put canaries in or out, and of the images in made-up sources

    def __post_init__(self) -> None:
        if not 0 < self.num_sampled <= self.num_canaries:
            raise SpecError(f"num_sampled is {self.num_sampled}; expected 1 to num_canaries {self.num_canaries}")


def settings_of(spec: RunSpec) -> AuditSettings:
    """The spec's mechanism on a network of the spec's kind, narrowed, over at most 1000 of its steps.

    Neither the width nor the number of steps enters what a step guarantees; the claim is made for the steps run.
    """
    plan = build_plan(spec)
    width, embedding = (min(n, _MOST_WIDTH) for n in (spec.denoiser.width, spec.denoiser.embedding_dim))
    return AuditSettings(
        denoiser=replace(spec.denoiser, width=width, embedding_dim=embedding),
        schedule=spec.schedule,
        objective=spec.training.objective,
        noise_multiplicity=min(spec.training.noise_multiplicity, _MOST_DRAWS),
        max_grad_norm=plan.max_grad_norm,
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        steps=min(plan.steps, _MOST_STEPS),
        delta=plan.target_delta,
    )
