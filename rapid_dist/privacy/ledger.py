"""The privacy ledger of a dataset: every use of it, written down before it happens, and never taken back.

One small file per entry, 000000.json and up, each naming the digest of the one before. Several jobs may write
at once: an entry is created only if absent, so one wins and the others look again before they spend. The chain
finds damage and edits; against someone who may rewrite or cut the whole folder, keep Ledger.head elsewhere (a
checkpoint, a statement) and ask require_entry for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from rapid_dist.errors import BudgetExceededError, PrivacyError
from rapid_dist.privacy.calibration import Budget
from rapid_dist.privacy.charges import AnyCharge, Charge, charge_from_dict
from rapid_dist.privacy.ledger_file import FIRST_ENTRY, STUDY_TERMS, Chain, Entry, make_entry
from rapid_dist.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class PaidSteps:
    """The charge of one ledger entry and the steps of its attempt that it pays for. Only the ledger issues it.

    first_step: the first of charge.num_steps steps; 0 for a mechanism that has no steps. entry: digest of the
    entry, so that the receipt can be checked against the ledger.
    """

    attempt: int
    first_step: int
    charge: AnyCharge
    entry: str

    @property
    def steps(self) -> range:
        """The training steps that were paid for."""
        return range(self.first_step, self.first_step + self.charge.num_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, to hand the receipt to the other workers of a group."""
        return {
            "attempt": self.attempt,
            "first_step": self.first_step,
            "charge": self.charge.to_dict(),
            "entry": self.entry,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PaidSteps:
        """The receipt that to_dict wrote, on a worker that rank 0 handed it to."""
        return cls(**{**values, "charge": charge_from_dict(values["charge"])})


STUDY = "study"
NOT_PRIVATE = "not_private_reason"  # in an attempt's plan: why what the attempt makes must not be called private
FIXED_KEY_REASON = "deterministic noise: a fixed debugging key was used, so anyone can remove it"


def attempt_reasons(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns why an attempt with this plan is not private; empty in a normal run."""
    reasons = () if plan.get("is_private", True) is True else (FIXED_KEY_REASON,)
    return (*reasons, plan[NOT_PRIVATE]) if plan.get(NOT_PRIVATE) else reasons


class LedgerView:
    """The attempts and charges of the jobs that a filter lets through, as of the last look at the folder.

    Args:
        chain: The entries of the dataset's ledger, shared with the ledger itself.
        jobs_fn: Returns the jobs to look at; None looks at all. It is called at each look, as jobs may join.
        name: What is looked at, in words, for messages.
        target: (epsilon, delta) that these jobs together keep within, where it is theirs and not each job's own.
    """

    def __init__(
        self,
        chain: Chain,
        jobs_fn: Callable[[], Set[str]] | None = None,
        *,
        name: str = "the dataset",
        target: tuple[float, float] | None = None,
    ):
        self._chain, self._jobs_fn, self.name, self.own_target = chain, jobs_fn, name, target

    @property
    def uri(self) -> str:
        """Where the ledger lies."""
        return self._chain.store.uri

    @property
    def dataset(self) -> LedgerView:
        """The same ledger without a filter: all jobs."""
        return LedgerView(self._chain)

    @property
    def target(self) -> dict[str, Any]:
        """The dataset's budget: target_epsilon, target_delta, neighboring_relation, unit."""
        return dict(self._chain.entries[0].body)

    @property
    def head(self) -> str:
        """Digest of the last entry, which fixes all entries before it."""
        return self._chain.entries[-1].digest

    @property
    def numbered_attempts(self) -> dict[int, dict[str, Any]]:
        """The plans of the attempts by their numbers, in the order written."""
        return {body["attempt"]: dict(body["plan"]) for body in self._attempts()}

    @property
    def attempts(self) -> tuple[dict[str, Any], ...]:
        """The plans of the attempts, in the order written."""
        return tuple(self.numbered_attempts.values())

    @property
    def jobs(self) -> tuple[str, ...]:
        """The jobs, in the order they first came."""
        return tuple(dict.fromkeys(body["job"] for body in self._attempts()))

    @property
    def numbered_charges(self) -> tuple[tuple[int, AnyCharge], ...]:
        """(attempt, charge) of every charge of these attempts, in the order written."""
        numbers = {body["attempt"] for body in self._attempts()}
        bodies = [body for body in self._bodies("charge") if body["attempt"] in numbers]
        return tuple((body["attempt"], charge_from_dict(body["charge"])) for body in bodies)

    @property
    def charges(self) -> tuple[AnyCharge, ...]:
        """Every charge of these attempts, in the order written."""
        return tuple(charge for _, charge in self.numbered_charges)

    @property
    def not_private_reasons(self) -> tuple[str, ...]:
        """Why nothing that these jobs made may be called private, each reason once; empty when every attempt is.

        Guarantee: one attempt that is not private makes all that is counted with it not private.
        """
        return tuple(dict.fromkeys(reason for plan in self.attempts for reason in attempt_reasons(plan)))

    def refresh(self) -> None:
        """Reads what was added since. Raises PrivacyError when a known entry is gone or the chain is broken."""
        self._chain.refresh()

    def _attempts(self) -> list[Mapping[str, Any]]:
        bodies = self._bodies("attempt")
        if self._jobs_fn is None:
            return bodies
        jobs = self._jobs_fn()
        return [body for body in bodies if body["job"] in jobs]

    def _bodies(self, kind: str) -> list[Mapping[str, Any]]:
        return self._chain.bodies(kind)


DEFAULT_JOB = "run"


class Ledger(LedgerView):
    """The ledger of one dataset. Made by open_ledger, join_ledger or read_ledger, not directly.

    Guarantee: epsilon is a function of the entries alone; an entry is never changed or removed, so spent_epsilon
    never falls, whatever crashes; nothing written depends on private records.
    """

    def __init__(self, store: Store, *, is_read_only: bool):
        super().__init__(Chain(store))
        self._is_read_only = is_read_only
        self._budgets: dict[tuple[float, float], Budget] = {}

    @property
    def is_empty(self) -> bool:
        """Whether the folder held no entry when it was last looked at."""
        return not self._chain.entries

    @property
    def studies(self) -> dict[str, dict[str, Any]]:
        """The studies that attempts name, in the order they first came, each with the STUDY_TERMS it was begun on."""
        return {plan[STUDY]: {term: plan[term] for term in STUDY_TERMS} for plan in self.attempts if STUDY in plan}

    @property
    def spent_steps(self) -> int:
        """num_steps of all charges of all attempts together."""
        return sum(charge.num_steps for charge in self.charges)

    def spent_epsilon(self) -> float:
        """Epsilon (PLD, at target_delta) of everything in the folder now, other writers' entries included."""
        self.refresh()
        return self._dataset_budget.epsilon(self.charges)

    def of_job(self, job: str) -> LedgerView:
        """What one job did to the dataset, a view of this ledger."""
        return LedgerView(self._chain, lambda: {job}, name=f"job {job!r}")

    def of_study(self, study: str) -> LedgerView:
        """What all jobs of a study did to the dataset: every job of which an attempt names it."""
        return self._of_studies((study,))

    def scope_of(self, job: str) -> LedgerView:
        """What a statement on this job has to count: all of its study where it has one, else the job alone.

        Guarantee: what a job learned from other jobs of its study is counted with it, whatever its spec says; its
        attempts in the ledger decide.
        """
        self.refresh()
        named = tuple(dict.fromkeys(plan[STUDY] for plan in self.attempts_of(job) if STUDY in plan))
        return self._of_studies(named) if named else self.of_job(job)

    def _of_studies(self, studies: tuple[str, ...]) -> LedgerView:
        terms = self.studies.get(studies[-1])
        return LedgerView(
            self._chain,
            lambda: set().union(*map(self._members, studies)),
            name=" and ".join(f"study {study!r}" for study in studies),
            target=None if terms is None else (terms["study_target_epsilon"], terms["study_target_delta"]),
        )

    def _members(self, study: str) -> set[str]:
        return {body["job"] for body in self._bodies("attempt") if body["plan"].get(STUDY) == study}

    def charges_of(self, job: str) -> tuple[AnyCharge, ...]:
        """The charges of all attempts of a job."""
        return self.of_job(job).charges

    def attempts_of(self, job: str) -> tuple[dict[str, Any], ...]:
        """The plans of all attempts of a job."""
        return self.of_job(job).attempts

    def require_entry(self, digest: str) -> None:
        """Raises PrivacyError unless the entry with this digest, seen earlier, is still there."""
        self._chain.require(digest)

    def require_counted(self, digest: str, *, job: str) -> None:
        """Raises PrivacyError unless the entry, seen earlier, is there and is a charge of the job."""
        self.require_entry(digest)
        if digest not in {entry.digest for entry in self._charges_of_job(job)}:
            raise PrivacyError(
                f"entry {digest[:12]}... is not among the charges of job {job!r}; what it paid for would not be "
                "counted: use a new folder"
            )

    def _charges_of_job(self, job: str) -> tuple[Entry, ...]:
        numbers = self.of_job(job).numbered_attempts
        return tuple(e for e in self._chain.entries if e.kind == "charge" and e.body["attempt"] in numbers)

    def begin_attempt(
        self,
        plan: Mapping[str, Any],
        *,
        job: str = DEFAULT_JOB,
        planned: Sequence[AnyCharge] = (),
        request: str | None = None,
    ) -> int:
        """Writes down a new attempt of a job and returns its number, counted from 1 and durable on return.

        plan: public settings, ready for JSON; its target_epsilon and target_delta, when given, limit the job
        within the dataset's budget. Its STUDY_TERMS limit all jobs of the study together. planned: what a job that
        begins means to charge in all. Every restart is a new attempt with fresh inclusion and noise. request: a name
        of this call, to make it again safely.
        Raises BudgetExceededError, with nothing written, when the planned charges do not fit; StorageError.
        """

        def body() -> dict[str, Any]:
            self.require_room(planned, job=job, plan=plan)
            return {"attempt": len(self.attempts) + 1, "job": job, "plan": dict(plan)}

        return int(self._append("attempt", body, request).body["attempt"])

    def require_room(self, planned: Sequence[AnyCharge], *, job: str, plan: Mapping[str, Any]) -> None:
        """Raises BudgetExceededError when a job that has not begun means to charge more than is left.

        A job that has begun may resume with what is left: it stops before the step that would exceed it.
        """
        if planned and job not in self.jobs:
            self._refuse_overspending(tuple(planned), job, plan, what="the plan of this job")

    def require_charge(self, charge: AnyCharge, *, job: str) -> None:
        """Raises PrivacyError unless the job was charged for this, so that what it released is counted."""
        self.refresh()
        if charge not in self.charges_of(job):
            raise PrivacyError(
                f"{self._chain.store.uri} holds no charge of job {job!r} for {charge.purpose}, yet its result is there;"
                " the ledger was lost or swapped: restore it, or use a new folder"
            )

    def paid_before(self, charge: AnyCharge, *, job: str) -> PaidSteps | None:
        """The receipt of this charge if the job already made it; None otherwise."""
        self.refresh()
        found = self._charges_of_job(job)
        return next((_receipt(e) for e in found if e.body["charge"] == charge.to_dict()), None)

    def charge(
        self, charge: AnyCharge, *, attempt: int, first_step: int | None = None, request: str | None = None
    ) -> PaidSteps:
        """Spends the charge, durably, and returns the receipt without which the mechanism does not run.

        first_step: the first of the num_steps steps whose noise this pays for, where noise has a step.
        Guarantee: when an error is raised the charge may count without having been used, never the reverse.
        Raises BudgetExceededError, with nothing written, when epsilon would exceed the dataset's budget, the job's or
        the study's; PrivacyError for an unknown attempt or for steps of an attempt already charged (their noise may
        be out); StorageError when it cannot be written.
        """

        def body() -> dict[str, Any]:
            self._refuse_used_steps(charge, attempt, first_step)
            job, plan = self._job_of(attempt)
            steps = f"{charge.num_steps} more steps of " if isinstance(charge, Charge) else ""
            self._refuse_overspending((charge,), job, plan, what=f"{steps}{charge.purpose}")
            return {"attempt": attempt, "first_step": first_step, "charge": charge.to_dict()}

        paid = _receipt(self._append("charge", body, request))
        if (paid.attempt, paid.first_step, paid.charge.purpose) != (attempt, first_step or 0, charge.purpose):
            raise PrivacyError(f"request {request!r} was answered with {paid}; a new charge needs a new request")
        return paid

    def charge_up_to(
        self, charge_like: Charge, up_to: int, *, attempt: int, first_step: int, request: str | None = None
    ) -> PaidSteps | None:
        """Spends as many steps as still fit, at most up_to, and returns the receipt; None when not one fits.

        Guarantee: that of charge. Raises what charge raises, but for a budget that is exceeded.
        """
        self.refresh()
        done = self._chain.answer_to(request)
        if done is not None:
            return _receipt(done)
        while True:
            num_steps = self.affordable_steps(charge_like, up_to, attempt=attempt)
            if num_steps == 0:
                return None
            wanted = replace(charge_like, num_steps=num_steps)
            try:
                return self.charge(wanted, attempt=attempt, first_step=first_step, request=request)
            except BudgetExceededError:  # another job was quicker; what is left is worked out again
                up_to = num_steps - 1

    def affordable_steps(self, charge_like: Charge, up_to: int, *, attempt: int | None = None) -> int:
        """The largest n <= up_to such that charging n steps of charge_like still fits; 0 when none does.

        With an attempt the limits of its job and its study hold as well as the dataset's budget.
        """
        self.refresh()
        limits = [self._dataset_limit] if attempt is None else self._limits(*self._job_of(attempt))
        num_steps = up_to
        for _, budget, already in limits:
            num_steps = budget.largest_fitting(already, charge_like, num_steps)
        return num_steps

    def _append(self, kind: str, make_body: Callable[[], dict[str, Any]], request: str | None) -> Entry:
        if self._is_read_only:
            raise PrivacyError(f"{self._chain.store.uri} was opened with read_ledger; use open_ledger to write")
        return self._chain.append(kind, make_body, request)

    def _job_of(self, attempt: int) -> tuple[str, Mapping[str, Any]]:
        bodies = self._bodies("attempt")
        if type(attempt) is not int or not 1 <= attempt <= len(bodies):
            raise PrivacyError(f"attempt {attempt!r} was never begun; call begin_attempt")
        return bodies[attempt - 1]["job"], bodies[attempt - 1]["plan"]

    @property
    def _dataset_budget(self) -> Budget:
        return self._budget(self.target["target_epsilon"], self.target["target_delta"])

    @property
    def _dataset_limit(self) -> tuple[str, Budget, tuple[AnyCharge, ...]]:
        return "the dataset's budget", self._dataset_budget, self.charges

    def _limits(self, job: str, plan: Mapping[str, Any]) -> list[tuple[str, Budget, tuple[AnyCharge, ...]]]:
        """All that an attempt of the job with this plan must keep within: name, budget, and what counts already."""
        limits = [self._dataset_limit]
        if "target_epsilon" in plan and "target_delta" in plan:
            own = self._budget(plan["target_epsilon"], plan["target_delta"])
            limits.append(("the target", own, self.charges_of(job)))
        if {STUDY, "study_target_epsilon", "study_target_delta"} <= plan.keys():
            total = self._budget(plan["study_target_epsilon"], plan["study_target_delta"])
            together = LedgerView(self._chain, lambda: self._members(plan[STUDY]) | {job})
            limits.append((f"the target of study {plan[STUDY]!r}", total, together.charges))
        return limits

    def _budget(self, target_epsilon: float, target_delta: float) -> Budget:
        return self._budgets.setdefault((target_epsilon, target_delta), Budget(target_epsilon, target_delta))

    def _refuse_overspending(
        self, more: tuple[AnyCharge, ...], job: str, plan: Mapping[str, Any], *, what: str
    ) -> None:
        for name, budget, already in self._limits(job, plan):
            budget.refuse_overspending(already, more, name=name, what=what)

    def _refuse_used_steps(self, charge: AnyCharge, attempt: int, first_step: int | None) -> None:
        if first_step is None:
            return
        for body in self._bodies("charge"):
            start, used = body["first_step"], body["charge"]
            if start is None or (body["attempt"], used["purpose"]) != (attempt, charge.purpose):
                continue
            if first_step < start + used["num_steps"] and start < first_step + charge.num_steps:
                raise PrivacyError(
                    f"step {max(first_step, start)} of attempt {attempt} is already charged for"
                    f" {charge.purpose}; its noise may not be used twice: begin a new attempt"
                )


def _receipt(entry: Entry) -> PaidSteps:
    body = entry.body
    return PaidSteps(
        attempt=body["attempt"],
        first_step=body["first_step"] or 0,
        charge=charge_from_dict(body["charge"]),
        entry=entry.digest,
    )


_PROBE = ".create-if-absent"  # in the ledger's folder; no entry, since it begins with a dot


def open_ledger(
    store: Store,
    *,
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: str = "add_or_remove_one",
    unit: str = "example",
    must_contain: str | None = None,
) -> Ledger:
    """Creates the ledger of a dataset with this budget, or opens it and verifies the chain.

    must_contain: a Ledger.head seen earlier; a folder cut back behind it is refused.
    Raises PrivacyError when the folder was opened with another budget, or an entry is missing or altered.
    """
    target = {
        "target_epsilon": float(target_epsilon),
        "target_delta": float(target_delta),
        "neighboring_relation": neighboring_relation,
        "unit": unit,
    }
    ledger = _opened(store, target)
    if ledger.target != target:
        raise PrivacyError(f"{store.uri} was opened with {ledger.target}; got {target}; use another folder")
    if must_contain is not None:
        ledger.require_entry(must_contain)
    return ledger


def join_ledger(
    store: Store,
    *,
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: str = "add_or_remove_one",
    unit: str = "example",
) -> Ledger:
    """The ledger of a dataset for one more job; a dataset that has none gets the job's own target as its budget.

    Raises PrivacyError when the dataset counts another relation or unit than the job.
    """
    terms = {"neighboring_relation": neighboring_relation, "unit": unit}
    budget = {"target_epsilon": float(target_epsilon), "target_delta": float(target_delta)}
    ledger = _opened(store, {**budget, **terms})
    if any(ledger.target[name] != value for name, value in terms.items()):
        counted = {name: ledger.target[name] for name in terms}
        raise PrivacyError(f"{store.uri} counts {counted}, the job {terms}; make them agree in the spec")
    return ledger


def has_ledger(store: Store) -> bool:
    """Returns whether the folder holds a ledger; files that begin with a dot are leftovers and no entries."""
    return any(not name.startswith(".") for name in store.list_files())


def read_ledger(store: Store, *, must_contain: str | None = None) -> Ledger:
    """The ledger of a dataset, verified, that refuses to write. Raises PrivacyError when there is none."""
    ledger = Ledger(store, is_read_only=True)
    ledger.refresh()
    if ledger.is_empty:
        raise PrivacyError(f"{store.uri} holds no ledger; without it nothing is known of the epsilon spent")
    if must_contain is not None:
        ledger.require_entry(must_contain)
    return ledger


def _opened(store: Store, target: Mapping[str, Any]) -> Ledger:
    if not store.refuses_to_create_twice(_PROBE):
        raise PrivacyError(
            f"{store.uri} lies on a service that ignores create-if-absent (If-None-Match): of two writers at once "
            "both would get a receipt and one charge would be lost; keep the dataset on a service that honours it, or "
            "on a disk"
        )
    ledger = Ledger(store, is_read_only=False)
    ledger.refresh()
    if ledger.is_empty:
        first = make_entry("open", target, before=(), request=secrets.token_hex(16))
        # When another writer was quicker, its entry is the budget; refresh reads whichever stands.
        store.create_exclusive(FIRST_ENTRY, first.data)
        ledger.refresh()
    return ledger
