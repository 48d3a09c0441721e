"""What every worker of private training does once it holds its records and first weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.errors import PrivacyError
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.metrics.steps import PrivateStepMeter, TimedCollective
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import DEFAULT_JOB, PaidSteps
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.privacy.release import count_votes, noise_histogram
from rapid_dist.privacy.statistics import sum_statistics
from rapid_dist.specs import RunSpec, TrainingSpec
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import table_arrays, table_bytes
from rapid_dist.training.collective import Collective, agree, on_rank_zero
from rapid_dist.training.plan import PrivateRun, statistics_terms
from rapid_dist.training.private_data import PrivateInputs, PrivatePartition, make_private_batch
from rapid_dist.training.state import CheckpointFolder, TrainState, check_stamp, checkpoint_stamp

VOTES = "votes.parquet"
STATISTICS = "statistics.parquet"


class Payer(Protocol):
    """What pays for steps: a Ledger, or a client of one that lives in another process."""

    def charge_up_to(self, charge_like: Charge, up_to: int, *, attempt: int, first_step: int) -> PaidSteps | None:
        """Spends as many steps as fit, durably; None when not one does."""


@dataclass(frozen=True, kw_only=True)
class PrivateAttempt:
    """One attempt at private training: its number, its fresh key, and the ledger that pays (rank 0 only).

    job: the name under which the ledger keeps all attempts of this run. statement_fn: what the ledger says now, in
    one line, for the header of a checkpoint.
    """

    number: int
    key: RunKey
    ledger: Payer | None
    job: str = DEFAULT_JOB
    statement_fn: Callable[[], str] = str


def learning_rate_factor(step: int, training: TrainingSpec) -> float:
    """1, then a straight line to 0 over the last decay_fraction of the steps."""
    left = (training.steps - step) / max(training.steps * training.decay_fraction, 1e-9)
    return min(1.0, left)


def _pay_for_block(
    attempt: PrivateAttempt, plan: PrivacyPlan, training: TrainingSpec, step: int, collective: Collective
) -> PaidSteps | None:
    """Charges the next block of steps durably and hands every worker the receipt; None when nothing fits."""

    def charge() -> dict[str, Any] | None:
        wanted = min(training.checkpoint_every, training.steps - step)
        paid = attempt.ledger.charge_up_to(plan.training_charge(1), wanted, attempt=attempt.number, first_step=step)
        return None if paid is None else paid.to_dict()

    receipt = on_rank_zero(collective, charge)
    return None if receipt is None else PaidSteps.from_dict(receipt)


def train_privately(
    state: TrainState,
    partition: PrivatePartition,
    run: PrivateRun,
    *,
    attempt: PrivateAttempt,
    collective: Collective,
    checkpoints: CheckpointFolder,
    on_step: Callable[[int], None] = lambda step: None,
    on_block: Callable[[TrainState], None] = lambda state: None,
    meter: PrivateStepMeter | None = None,
) -> bool:
    """Runs from state.step to the last step; returns False when the budget ran out before it.

    Every worker calls it with the same arguments but its own partition. Checkpoints are written by rank 0.
    on_block hears of every paid block once its checkpoint is written, on every worker alike.

    Guarantee: before a step's noise exists, its charge is durable in the ledger; a step that cannot be paid for
    is not taken.
    """
    plan, training = run.plan, run.training
    plan.require_key(attempt.key)
    meter = meter or PrivateStepMeter(Recorder(), planned_steps=training.steps, expected_batch_size=0)
    meter.begin(state.step)
    while state.step < training.steps:
        with meter.ledger_write():
            paid = _pay_for_block(attempt, plan, training, state.step, collective)
        if paid is None:
            meter.close()
            return False
        for private_step in plan.private_steps(attempt.key, paid):
            with meter.phase("data"):
                included = private_step.included(partition.example_id)
                batch = make_private_batch(partition, included, run, step=private_step.number)
            with meter.phase("gradient"):
                local_sum = private_step.clipped_sum(
                    denoising_loss,
                    state.model,
                    batch.rows(),
                    rows_per_example=batch.rows_per_example,
                    max_physical_batch_size=run.max_physical_batch_size,
                    engine=run.clipping_engine,
                )
            with meter.phase("noise"):
                released = private_step.release(local_sum, TimedCollective(collective, meter))
            with meter.phase("update"):
                state.set_gradients(released)
                state.apply(learning_rate_factor=learning_rate_factor(private_step.number, training))
            on_step(state.step)
            meter.step_done(state.step)
        if collective.rank == 0:
            with meter.phase("checkpoint"):
                checkpoints.save(state, checkpoint_stamp(plan, attempt.job, paid, attempt.statement_fn()))
        on_block(state)
    meter.close()
    return True


class Book(Payer, Protocol):
    """The ledger as private training needs it: a Ledger, or a client of one that lives in another process."""

    def begin_attempt(self, plan: dict[str, Any], *, job: str, planned: tuple[Charge, ...]) -> int:
        """Writes down a new attempt and returns its number."""

    def require_counted(self, digest: str, *, job: str) -> None:
        """Raises PrivacyError unless the entry, seen earlier, is there and is a charge of the job."""


def open_attempt(
    plan: PrivacyPlan,
    *,
    ledger: Book | None,
    job: str,
    debug_fixed_key: int | None,
    collective: Collective,
    statement_fn: Callable[[], str] = str,
    attempt_terms: Mapping[str, Any] | None = None,
) -> PrivateAttempt:
    """A new attempt with a fresh key: rank 0 writes it into the ledger, the key travels in memory only.

    ledger, statement_fn: needed on rank 0 only. attempt_terms: what else the ledger writes down of the attempt, such
    as its study; see Ledger.begin_attempt.
    Raises PrivacyError when they would change the plan.
    """
    plain, terms = plan.to_plain(), dict(attempt_terms or {})
    if plain.keys() & terms.keys():
        raise PrivacyError(
            f"attempt_terms hold {sorted(plain.keys() & terms.keys())}, which the plan sets; leave them out"
        )
    number = on_rank_zero(
        collective, lambda: ledger.begin_attempt({**plain, **terms}, job=job, planned=plan.planned_charges())
    )
    key = RunKey.fresh() if debug_fixed_key is None else RunKey.fixed_for_debugging(debug_fixed_key)
    key = RunKey.from_bytes(collective.broadcast(key.export_bytes()))
    return PrivateAttempt(
        number=number,
        key=key,
        ledger=ledger if collective.rank == 0 else None,
        job=job,
        statement_fn=statement_fn,
    )


def train_attempt(
    model: torch.nn.Module,
    partition: PrivatePartition,
    run: PrivateRun,
    *,
    attempt: PrivateAttempt,
    collective: Collective,
    checkpoints: CheckpointFolder,
    watch: Callable[[TrainState], Callable[[int], None]],
    on_block: Callable[[TrainState], None] = lambda state: None,
    meter: PrivateStepMeter | None = None,
) -> tuple[TrainState, bool]:
    """Trains from the newest checkpoint, if there is one; returns the state, and whether the last step was reached.

    watch: called once with the state before the first step of this attempt; returns a callback for every step after it.
    """
    state = TrainState(model, learning_rate=run.training.learning_rate, ema_decay=run.training.ema_decay)
    _resume(state, checkpoints, run.plan, attempt, collective)
    completed = train_privately(
        state,
        partition,
        run,
        attempt=attempt,
        collective=collective,
        checkpoints=checkpoints,
        on_step=watch(state),
        on_block=on_block,
        meter=meter,
    )
    return state, completed


def _resume(
    state: TrainState, checkpoints: CheckpointFolder, plan: PrivacyPlan, attempt: PrivateAttempt, collective: Collective
) -> None:
    """Resumes from the newest checkpoint, when the ledger counts what is in it."""
    saved = agree(collective, checkpoints.latest)
    if saved is None:
        return

    def check() -> None:
        check_stamp(saved, plan=plan, job=attempt.job, require_counted=attempt.ledger.require_counted)

    on_rank_zero(collective, check)
    agree(collective, lambda: state.load_bytes(saved))


def release_votes(
    inputs: PrivateInputs, spec: RunSpec, plan: PrivacyPlan, attempt: PrivateAttempt, collective: Collective, out: Store
) -> np.ndarray | None:
    """Noisy votes (classes, prototypes): the release of an earlier attempt when it is there, else a charged one."""

    def local_sum() -> np.ndarray:
        shape = (spec.data.num_classes, inputs.num_prototypes)
        return count_votes(inputs.partition.label.numpy(), inputs.prototype, shape)

    return _released(plan.votes_charge(), local_sum, VOTES, "noisy_votes", inputs, attempt, collective, out)


def release_statistics(
    inputs: PrivateInputs, spec: RunSpec, plan: PrivacyPlan, attempt: PrivateAttempt, collective: Collective, out: Store
) -> np.ndarray | None:
    """Noisy class statistics (classes * parts, size): an earlier attempt's where there are any, else a charged one."""

    def local_sum() -> np.ndarray:
        return local_statistics(inputs, spec, plan.statistics_noise_multiplier)

    charge = plan.statistics_charge()
    return _released(charge, local_sum, STATISTICS, "noisy_statistics", inputs, attempt, collective, out)


def local_statistics(inputs: PrivateInputs, spec: RunSpec, noise_multiplier: float | None = None) -> np.ndarray:
    """This worker's part of the class statistics, (classes * parts, size) float64, before noise; private.

    noise_multiplier: of the release, as statistics_terms takes it.

    Guarantee: a record changes the sum over all workers by an L2 norm of at most 1, in one row of its class.
    """
    partition, terms = inputs.partition, statistics_terms(spec, inputs.models.latent_shape, noise_multiplier)
    label = partition.label if spec.data.num_classes else torch.zeros_like(partition.label)
    return sum_statistics(partition.latent.flatten(1).double().numpy(), label.numpy(), terms)


def _released(
    charge: Charge | None,
    local_sum: Callable[[], np.ndarray],
    path: str,
    column: str,
    inputs: PrivateInputs,
    attempt: PrivateAttempt,
    collective: Collective,
    out: Store,
) -> np.ndarray | None:
    """The sum of all workers' local_sum() with one noise, paid for once a job; None without a charge.

    Guarantee: the charge is durable before the noise is drawn, and the noise goes on once, after every sum. A later
    attempt reads what was released; it never adds other noise to the same sum.
    """
    if charge is None:
        return None

    def is_released() -> bool:
        if not out.exists(path):
            return False
        attempt.ledger.require_charge(charge, job=attempt.job)
        return True

    if not on_rank_zero(collective, is_released):
        local = torch.from_numpy(local_sum().astype(np.float64)).to(inputs.device)
        total = collective.sum(local).cpu().numpy()

        def pay_then_release() -> None:
            paid = attempt.ledger.charge(charge, attempt=attempt.number)
            noisy = noise_histogram(total, key=attempt.key, paid=paid)
            out.write_bytes(path, table_bytes({column: noisy}))

        on_rank_zero(collective, pay_then_release)
    return table_arrays(out.read_bytes(path), where=f"{out.uri}/{path}")[column]


@dataclass(frozen=True, kw_only=True)
class BlockEnd:
    """What a worker has at the end of a block of steps. votes, statistics: the paid noisy ones, where there are any."""

    state: TrainState
    inputs: PrivateInputs
    votes: np.ndarray | None
    statistics: np.ndarray | None
    attempt: PrivateAttempt
    collective: Collective
    device: str
