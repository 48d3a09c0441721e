"""What may be written into the ledger of a dataset, and what its entries come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import BudgetExceededError, PrivacyError
from rapid_dist.privacy.bounded import charge_from_dict
from rapid_dist.privacy.budget import Budget
from rapid_dist.privacy.charges import AnyCharge, Charge
from rapid_dist.privacy.ledger_chain import Chain
from rapid_dist.privacy.ledger_entry import STUDY_TERMS, Entry
from rapid_dist.privacy.ledger_view import STUDY, LedgerView
from rapid_dist.privacy.paid import PaidSteps

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
