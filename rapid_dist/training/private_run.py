"""What every worker of private training does once it holds its records and first weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from rapid_dist.errors import PrivacyError
from rapid_dist.metrics.steps import PrivateStepMeter
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.specs import ScheduleSpec, TrainingSpec
from rapid_dist.training.checkpoint_stamp import check_stamp
from rapid_dist.training.collective import Collective, agree, on_rank_zero
from rapid_dist.training.private_batch import PrivatePartition
from rapid_dist.training.private_loop import Payer, PrivateAttempt, train_privately
from rapid_dist.training.state import CheckpointFolder, TrainState


class Book(Payer, Protocol):
    """The ledger as private training needs it: a Ledger, or a client of one that lives in another process."""

    def begin_attempt(self, plan: dict[str, Any], *, job: str, planned: tuple[Charge, ...]) -> int:
        """Writes down a new attempt and returns its number."""

    def require_counted(self, digest: str, *, job: str, charged_to: str) -> None:
        """Raises PrivacyError unless the entry is there, paid for by charged_to, and counts for the job."""


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
    as its study and what it inherits; see Ledger.begin_attempt.
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
    *,
    plan: PrivacyPlan,
    attempt: PrivateAttempt,
    training: TrainingSpec,
    schedule: ScheduleSpec,
    alphas_cumprod: torch.Tensor,
    num_conditions: int,
    collective: Collective,
    checkpoints: CheckpointFolder,
    max_physical_batch_size: int,
    device: str,
    watch: Callable[[TrainState], Callable[[int], None]],
    on_block: Callable[[TrainState], None] = lambda state: None,
    meter: PrivateStepMeter | None = None,
) -> tuple[TrainState, bool]:
    """Trains from the newest checkpoint, if there is one, and says whether the last step was reached.

    watch: given the state before the first step of this attempt, returns what hears of every step after it.
    """
    state = TrainState(model, learning_rate=training.learning_rate, ema_decay=training.ema_decay)
    _resume(state, checkpoints, plan, attempt, collective)
    completed = train_privately(
        state,
        partition,
        plan=plan,
        attempt=attempt,
        training=training,
        schedule=schedule,
        alphas_cumprod=alphas_cumprod,
        num_conditions=num_conditions,
        collective=collective,
        checkpoints=checkpoints,
        max_physical_batch_size=max_physical_batch_size,
        device=device,
        on_step=watch(state),
        on_block=on_block,
        meter=meter,
    )
    return state, completed


def _resume(
    state: TrainState, checkpoints: CheckpointFolder, plan: PrivacyPlan, attempt: PrivateAttempt, collective: Collective
) -> None:
    """Goes on from the newest checkpoint, when the ledger counts what is in it."""
    saved = agree(collective, checkpoints.latest)
    if saved is None:
        return

    def check() -> None:
        check_stamp(saved, plan=plan, job=attempt.job, require_counted=attempt.ledger.require_counted)

    on_rank_zero(collective, check)
    agree(collective, lambda: state.load_bytes(saved))
