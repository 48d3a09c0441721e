"""Runs the private trainer and keeps what can be seen of it from outside: calls, sums, released gradients, charges."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from rapid_dist.audit.canaries import NUM_CLASSES, AuditRecords, build_canary_model
from rapid_dist.audit.checks import Recording
from rapid_dist.diffusion.process import make_alphas_cumprod
from rapid_dist.errors import RapidDistError
from rapid_dist.privacy.clipping import AUTO
from rapid_dist.privacy.ledger import join_ledger, read_ledger
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.specs import DenoiserSpec, ScheduleSpec, TrainingSpec
from rapid_dist.storage.store import Store
from rapid_dist.training.collective import Collective, on_rank_zero
from rapid_dist.training.plan import PrivateRun
from rapid_dist.training.private import Book, open_attempt, train_attempt
from rapid_dist.training.state import CheckpointFolder

LEDGER = "ledger"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run to be watched. num_canaries: canary parameters of the model, used or not.

    debug_key: None draws a fresh secret key for each attempt; a number gives the fixed key of a replay.
    crash_after: the step count at which all workers fail once, after which training resumes as a new attempt.
    """

    name: str
    plan: PrivacyPlan
    training: TrainingSpec
    schedule: ScheduleSpec
    denoiser: DenoiserSpec
    records: AuditRecords
    num_canaries: int
    clipping_engine: str = AUTO
    debug_key: int | None = None
    crash_after: int | None = None


class StatingBook(Book, Protocol):
    """A ledger in another process, as the train stage has it."""

    def statement_line(self, plan: PrivacyPlan, *, job: str) -> str:
        """The privacy statement of a job as of now, in one line."""


class Crash(Exception):
    """The failure that a trial plants on every worker at once."""


class Watch:
    """A collective that passes every call on and notes its kind and shape and, for sums of gradients, the result."""

    def __init__(self, inner: Collective, num_parameters: int):
        self.inner, self.num_parameters = inner, num_parameters
        self.rank, self.world_size, self.device = inner.rank, inner.world_size, inner.device
        self._calls, self._sums = hashlib.sha256(), []

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self._calls.update(f"sum {tuple(tensor.shape)} {tensor.dtype};".encode())
        total = self.inner.sum(tensor)
        if tensor.shape == (self.num_parameters,):
            self._sums.append(total.detach().cpu().double().clone())
        return total

    def broadcast(self, data: bytes) -> bytes:
        answer = self.inner.broadcast(data)
        self._calls.update(f"broadcast {len(answer)};".encode())
        return answer

    def take_sums(self) -> list[torch.Tensor]:
        """The sums of whole gradients since the last look; the first of a step is the clipped sum."""
        sums, self._sums = self._sums, []
        return sums

    @property
    def calls_digest(self) -> str:
        return self._calls.hexdigest()


@dataclass(kw_only=True)
class _Seen:
    """What the optimiser was given in each step, the clipped sum before it, and the attempt it belongs to."""

    released: list[np.ndarray] = field(default_factory=list)
    clipped_sums: list[np.ndarray] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    charges: list[int] = field(default_factory=list)  # steps charged in all, when the trial crashed


def observe(trial: Trial, collective: Collective, work: Store, book: StatingBook | None = None) -> Recording:
    """Trains as the train stage does and returns what was seen; every worker calls it alike.

    work: an empty folder for the trial's ledger and checkpoints, seen by all workers. book: what writes the ledger in
    work / LEDGER; None opens it in rank 0's own process.
    An error of ours ends the run and is part of what was seen; any other is raised.
    """
    plan = trial.plan
    model = build_canary_model(trial.denoiser, trial.num_canaries, max_grad_norm=plan.max_grad_norm)
    model = model.to(collective.device)
    watch, seen = Watch(collective, sum(p.numel() for p in model.parameters())), _Seen()
    try:
        try:
            completed = _run(trial, model, watch, seen, work, book, trial.crash_after)
        except Crash:
            completed = _run(trial, model, watch, seen, work, book, None)
        outcome = "completed" if completed else "stopped"
    except RapidDistError as error:
        outcome = f"{type(error).__name__}: {error}"
    return _recording(outcome, trial, watch, seen, work)


def _run(
    trial: Trial,
    model: torch.nn.Module,
    watch: Watch,
    seen: _Seen,
    work: Store,
    book: StatingBook | None,
    crash_after: int | None,
) -> bool:
    """One attempt, from the newest checkpoint if there is one."""
    plan, store = trial.plan, work.child(LEDGER)
    own = join_ledger(store, **plan.ledger_terms()) if book is None and watch.rank == 0 else None
    attempt = open_attempt(
        plan,
        ledger=book or own,
        job=trial.name,
        debug_fixed_key=trial.debug_key,
        statement_fn=(lambda: book.statement_line(plan, job=trial.name)) if book is not None else str,
        collective=watch,
    )
    watch.take_sums()

    def note(step: int) -> None:
        gradient = torch.cat([p.grad.detach().flatten() for p in model.parameters()])
        sums = watch.take_sums()
        clipped = sums[0].numpy() if sums else np.full(len(gradient), np.nan)
        seen.clipped_sums.append(clipped / plan.max_grad_norm)
        seen.released.append(gradient.cpu().double().numpy() * plan.expected_batch_size)
        seen.attempts.append(attempt.number)
        if step == crash_after:
            if watch.rank == 0:
                seen.charges.append(read_ledger(store).spent_steps)
            raise Crash

    _, completed = train_attempt(
        model,
        trial.records.part(watch.rank, watch.world_size),
        PrivateRun(
            plan=plan,
            training=trial.training,
            schedule=trial.schedule,
            alphas_cumprod=make_alphas_cumprod(trial.schedule).to(watch.device),
            num_conditions=NUM_CLASSES + trial.num_canaries,
            max_physical_batch_size=4096,
            clipping_engine=trial.clipping_engine,
            device=watch.device,
        ),
        attempt=attempt,
        collective=watch,
        checkpoints=CheckpointFolder(work.child("checkpoints")),
        watch=lambda state: note,
    )
    return completed


def _recording(outcome: str, trial: Trial, watch: Watch, seen: _Seen, work: Store) -> Recording:
    released = np.array(seen.released).reshape(-1, watch.num_parameters)
    result = hashlib.sha256(outcome.encode() + released.tobytes()).hexdigest()
    everyone = [word.split() for word in _gathered(f"{watch.calls_digest} {result}", watch.inner)]

    def public() -> dict[str, Any]:
        ledger = read_ledger(work.child(LEDGER))
        return {
            "charges": [charge.to_dict() for charge in ledger.charges],
            "plans": list(ledger.attempts),
            "epsilon": ledger.spent_epsilon(),
            "charged_steps": ledger.spent_steps,
            "charged_steps_at_failure": seen.charges[0] if seen.charges else 0,
        }

    return Recording(
        outcome=outcome,
        call_digests=tuple(calls for calls, _ in everyone),
        clipped_sums=np.array(seen.clipped_sums).reshape(-1, watch.num_parameters),
        released=released,
        attempts=np.array(seen.attempts, dtype=np.int64),
        public=on_rank_zero(watch.inner, public),
        is_same_on_all_workers=len({result for _, result in everyone}) == 1,
    )


def _gathered(word: str, collective: Collective) -> list[str]:
    """Every worker's word, on all workers; words are ASCII and equally long."""
    rows = torch.zeros(collective.world_size, len(word), dtype=torch.float64, device=collective.device)
    rows[collective.rank] = torch.tensor(list(word.encode()), dtype=torch.float64)
    return [bytes(int(byte) for byte in row).decode() for row in collective.sum(rows).tolist()]
