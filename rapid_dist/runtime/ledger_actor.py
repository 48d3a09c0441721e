"""The ledger of a run as one actor beside the driver: workers on any node pay there, and it may die and come back."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

from rapid_dist import errors
from rapid_dist.privacy.charges import AnyCharge, Charge
from rapid_dist.privacy.ledger import Ledger, PaidSteps, join_ledger
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.privacy.statement import checkpoint_statement_line
from rapid_dist.runtime.session import start_beside_driver
from rapid_dist.storage.store import Store


class _LedgerServer:
    """Opens the ledger anew in every life; all it knows is in the folder."""

    def __init__(self, store: Store, terms: dict[str, Any]):
        self._store, self._terms = store, terms
        self._ledger: Ledger | None = None

    def statement_line(self, plan: PrivacyPlan, job: str) -> str:
        """The statement of a job, or of the study that its attempts name, as of now, in one line."""
        return checkpoint_statement_line(plan, self._opened().scope_of(job))

    def _opened(self) -> Ledger:
        if self._ledger is None:
            self._ledger = join_ledger(self._store, **self._terms)
        return self._ledger

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The answer of a ledger method, or one of our errors as a value, since Ray would wrap it."""

        def answer() -> Any:
            owner = self if method == "statement_line" else self._opened()
            return getattr(owner, method)(*args, **kwargs)

        return errors.as_value(answer)


class LedgerClient:
    """A ledger that lives in the actor; it pickles, and a call that was cut off is made again under its own name.

    Guarantee: that of Ledger. A call repeated after the actor died carries the same request, so it is
    answered from what was written and never spends twice.
    """

    def __init__(self, actor: Any):
        self._actor = actor

    def begin_attempt(self, plan: dict[str, Any], *, job: str, planned: tuple[AnyCharge, ...] = ()) -> int:
        """As Ledger.begin_attempt."""
        return self._call("begin_attempt", plan, job=job, planned=planned, request=secrets.token_hex(16))

    def charge(self, charge: AnyCharge, *, attempt: int, first_step: int | None = None) -> PaidSteps:
        """As Ledger.charge."""
        return self._call("charge", charge, attempt=attempt, first_step=first_step, request=secrets.token_hex(16))

    def charge_up_to(self, charge_like: Charge, up_to: int, *, attempt: int, first_step: int) -> PaidSteps | None:
        """As Ledger.charge_up_to."""
        request = secrets.token_hex(16)
        return self._call("charge_up_to", charge_like, up_to, attempt=attempt, first_step=first_step, request=request)

    def require_entry(self, digest: str) -> None:
        """As Ledger.require_entry."""
        return self._call("require_entry", digest)

    def require_counted(self, digest: str, *, job: str) -> None:
        """As Ledger.require_counted."""
        return self._call("require_counted", digest, job=job)

    def require_charge(self, charge: AnyCharge, *, job: str) -> None:
        """As Ledger.require_charge."""
        return self._call("require_charge", charge, job=job)

    def statement_line(self, plan: PrivacyPlan, *, job: str) -> str:
        """The privacy statement of a job, or of its study, as of now, in one line for a checkpoint's header."""
        return self._call("statement_line", plan, job)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        import ray
        from ray.exceptions import RayActorError

        try:
            answer = ray.get(self._actor.call.remote(method, args, kwargs))
        except RayActorError as error:
            raise errors.PrivacyError(
                "the ledger cannot be reached, so no step may be taken; run the same line again to resume"
            ) from error
        return errors.value_of(answer)


@contextlib.contextmanager
def ledger_actor(store: Store, **terms: Any) -> Iterator[LedgerClient]:
    """The client of an actor on the driver's own node, where a local ledger folder lies; it ends with the scope.

    terms: target_epsilon, target_delta, neighboring_relation and unit of join_ledger.
    """
    import ray

    actor = start_beside_driver(_LedgerServer, store, terms, max_restarts=-1, max_task_retries=-1)
    try:
        yield LedgerClient(actor)
    finally:
        if ray.is_initialized():
            ray.kill(actor)
