"""What is audited, and the training runs that an audit watches, as plain descriptions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from rapid_dist.audit.canaries import LATENT_SHAPE, NUM_CLASSES, AuditRecords, make_canaries, make_records
from rapid_dist.audit.observe import Trial
from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import training_charge
from rapid_dist.privacy.clipping import AUTO
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.seeding import make_rng
from rapid_dist.specs import DenoiserSpec, RunSpec, ScheduleSpec, TrainingSpec
from rapid_dist.training.plan import build_plan

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
    clipping_engine: str = AUTO
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
        clipping_engine=spec.runtime.clipping_engine,
        max_grad_norm=plan.max_grad_norm,
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        steps=min(plan.steps, _MOST_STEPS),
        delta=plan.target_delta,
    )


RESTART = "restart"
REPLAY_KEY, REPLAY_STEPS, REPLAY_RATE = 20261124, 8, 0.5
THE_RECORD = 10**6 + 1  # the id of the record that is there or not; ids below 10^6 belong to canaries
_OTHERS = 10**6 + 2 * np.arange(1, 7)  # even ids: on two workers, THE_RECORD has the other worker to itself
_NUM_REPLAY_CANARIES = 4
_NO_LEARNING = 1e-30  # weights stay what they are, so that two runs differ by the one record alone


def canary_trial(settings: AuditSettings, number: int, *, is_full_batch: bool) -> tuple[Trial, np.ndarray]:
    """A run with each canary in the data or not by a coin of its own, and the coins (num_canaries,) bool."""
    kind = "full" if is_full_batch else "sampled"
    coins = make_rng(settings.seed, f"coins-{kind}", number).random(settings.num_canaries) < 0.5
    if is_full_batch:
        plan = _plan(settings, 1.0, settings.full_batch_noise_multiplier, settings.full_batch_steps)
    else:
        plan = _plan(settings, settings.sample_rate, settings.noise_multiplier, settings.steps)
    return _trial(settings, f"{kind}-{number}", plan, make_canaries(np.flatnonzero(coins))), coins


def restart_trial(settings: AuditSettings) -> Trial:
    """A run that fails once in the middle of a paid block and goes on; the last num_sampled canaries are in the data.

    All other coordinates, the denoiser's own among them, then hold nothing but noise.
    """
    block = max(2, settings.restart_steps // 4)
    rate = min(max(settings.sample_rate, 0.05), 0.5)  # neither so rare nor so frequent that chance shows nothing
    plan = _plan(settings, rate, settings.noise_multiplier, settings.restart_steps, spare_steps=block)
    last = np.arange(settings.num_canaries - settings.num_sampled, settings.num_canaries)
    crash_after = block + block // 2
    return _trial(settings, RESTART, plan, make_canaries(last), block=block, crash_after=crash_after)


def replay_trials(settings: AuditSettings) -> list[tuple[Trial, Trial, np.ndarray]]:
    """Pairs of runs with and without one record under one fixed key, and which canary coordinates are the record's."""
    others = make_records(_OTHERS, np.arange(len(_OTHERS)) % NUM_CLASSES) + make_canaries(
        np.arange(_NUM_REPLAY_CANARIES)
    )
    nobody = make_records(np.empty(0), np.empty(0))
    own = {"a copy of a canary": 0}
    pairs = []
    for name, record in _the_records(others).items():
        pairs.append((name, others + record, others, own.get(name)))
    pairs.append(("the only record", nobody + _ordinary(), nobody, None))
    return [
        (
            _replay_trial(settings, f"with {name}", having),
            _replay_trial(settings, f"without {name}", lacking),
            np.arange(_NUM_REPLAY_CANARIES) == (-1 if canary is None else canary),
        )
        for name, having, lacking, canary in pairs
    ]


def _ordinary() -> AuditRecords:
    return make_records(np.array([THE_RECORD]), np.array([1]))


def _the_records(others: AuditRecords) -> dict[str, AuditRecords]:
    """What the one record may be: anything that a data owner may hand in."""
    one, label = np.array([THE_RECORD]), np.array([1])
    drawn = _ordinary().latent

    def filled(value: float) -> AuditRecords:
        return make_records(one, label, latent=torch.full((1, *LATENT_SHAPE), value))

    return {
        "an ordinary record": _ordinary(),
        "a record of zeros": filled(0.0),
        "a huge record": make_records(one, label, latent=1e6 * drawn),
        "a record whose gradient overflows": make_records(one, label, latent=1e30 * drawn),
        "a record of NaN": filled(float("nan")),
        "a record with an infinity": make_records(one, label, latent=drawn.index_fill(3, torch.tensor([0]), torch.inf)),
        "a copy of another record": make_records(one, others.label[:1].numpy(), latent=others.latent[:1]),
        "a copy of a canary": make_records(one, np.array([NUM_CLASSES])),
    }


def _replay_trial(settings: AuditSettings, name: str, records: AuditRecords) -> Trial:
    size = len(_OTHERS) + _NUM_REPLAY_CANARIES
    plan = _plan(settings, REPLAY_RATE, 1.0, REPLAY_STEPS, is_private=False, nominal_size=size)
    return _trial(
        settings,
        name,
        plan,
        records,
        num_canaries=_NUM_REPLAY_CANARIES,
        learning_rate=_NO_LEARNING,
        noise_multiplicity=settings.noise_multiplicity,
        debug_key=REPLAY_KEY,
    )


def _plan(
    settings: AuditSettings,
    sample_rate: float,
    noise_multiplier: float,
    steps: int,
    *,
    spare_steps: int = 0,
    is_private: bool = True,
    nominal_size: int | None = None,
) -> PrivacyPlan:
    """A plan whose target is what its steps cost, so that the ledger has to let just those pass."""
    charge = training_charge(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=steps + spare_steps)
    return PrivacyPlan(
        target_epsilon=epsilon_pld((charge,), settings.delta) + 1e-6,
        target_delta=settings.delta,
        neighboring_relation="add_or_remove_one",
        unit="one made-up record",
        sample_rate=sample_rate,
        expected_batch_size=sample_rate * (nominal_size or settings.num_canaries / 2),
        max_grad_norm=settings.max_grad_norm,
        noise_multiplier=noise_multiplier,
        steps=steps,
        spare_steps=spare_steps,
        votes_noise_multiplier=None,
        is_private=is_private,
    )


def _trial(
    settings: AuditSettings,
    name: str,
    plan: PrivacyPlan,
    records: AuditRecords,
    *,
    num_canaries: int | None = None,
    block: int | None = None,
    learning_rate: float = 1e-3,
    noise_multiplicity: int = 1,  # one draw is enough for canaries: their gradient is the same for all
    debug_key: int | None = None,
    crash_after: int | None = None,
) -> Trial:
    training = TrainingSpec(
        steps=plan.steps,
        objective=settings.objective,
        noise_multiplicity=noise_multiplicity,
        learning_rate=learning_rate,
        label_dropout=0.0,  # the label says which canary a record is
        checkpoint_every=block or plan.steps,
    )
    return Trial(
        name=name,
        plan=plan,
        training=training,
        schedule=settings.schedule,
        denoiser=settings.denoiser,
        clipping_engine=settings.clipping_engine,
        records=records,
        num_canaries=settings.num_canaries if num_canaries is None else num_canaries,
        debug_key=debug_key,
        crash_after=crash_after,
    )
