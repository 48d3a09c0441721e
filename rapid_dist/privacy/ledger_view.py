"""What a dataset's ledger says of some of its jobs, or of all: attempts, charges, and why they are not private."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

from rapid_dist.privacy.bounded import charge_from_dict
from rapid_dist.privacy.charges import AnyCharge
from rapid_dist.privacy.ledger_chain import Chain

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
