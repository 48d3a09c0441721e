"""The privacy ledger: every use of the private data, written down before it happens, and never taken back.

One small file per entry, 000000.json and up, each naming the digest of the one before. The chain finds
damage and edits; against someone who may rewrite or cut the whole folder, keep Ledger.head elsewhere (a
checkpoint, a statement) and pass it to open_ledger as must_contain.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import BudgetExceededError, PrivacyError, SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import Charge, merge_charges

_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the ledger, read and checked; digest is the sha256 of all its other fields."""

    kind: str
    body: Mapping[str, Any]
    digest: str
    data: bytes


class Ledger:
    """The entries of one folder. Made by open_ledger or read_ledger, not directly.

    Guarantee: epsilon is a function of the entries alone; an entry once written is never changed or removed,
    so spent_epsilon never falls, whatever crashes; nothing written depends on private records.
    """

    def __init__(self, store: Store, *, is_read_only: bool):
        self._store, self._is_read_only = store, is_read_only
        self._writer = secrets.token_hex(8)
        self._entries: tuple[Entry, ...] = ()
        self._known_to_fit: dict[tuple[str, float, float], int] = {}

    @property
    def target(self) -> dict[str, Any]:
        """What the ledger was opened with: target_epsilon, target_delta, neighboring_relation, unit."""
        return dict(self._entries[0].body)

    @property
    def head(self) -> str:
        """Digest of the last entry, which fixes all entries before it."""
        return self._entries[-1].digest

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges of all attempts, in the order written, as of the last look at the folder."""
        return tuple(Charge.from_dict(body["charge"]) for body in self._bodies("charge"))

    @property
    def attempts(self) -> tuple[dict[str, Any], ...]:
        """The plans of all attempts; attempt n is at position n - 1."""
        return tuple(dict(body["plan"]) for body in self._bodies("attempt"))

    @property
    def spent_steps(self) -> int:
        """num_steps of all charges of all attempts together."""
        return sum(charge.num_steps for charge in self.charges)

    def spent_epsilon(self) -> float:
        """Epsilon (PLD, at target_delta) of everything in the folder now, other writers' entries included."""
        self.refresh()
        return self._epsilon(self.charges)

    def begin_attempt(self, plan: Mapping[str, Any]) -> int:
        """Writes down a new attempt and returns its number, counted from 1 and durable on return.

        plan: public settings, ready for JSON. Every restart is a new attempt with fresh inclusion and noise.
        Raises PrivacyError when another writer was quicker; StorageError when it cannot be written.
        """
        self.refresh()
        attempt = len(self.attempts) + 1
        self._append("attempt", {"attempt": attempt, "plan": dict(plan)})
        return attempt

    def charge(self, charge: Charge, *, attempt: int, first_step: int | None = None) -> None:
        """Spends the charge, durably. Only when this returns may the mechanism run.

        first_step: the first of the num_steps steps whose noise this pays for, where noise has a step.
        Guarantee: when an error is raised the charge may count without having been used, never the reverse.
        Raises BudgetExceededError, with nothing written, when epsilon would exceed the target; PrivacyError
        for an unknown attempt, for steps of an attempt already charged (their noise may be out), or when
        another writer was quicker; StorageError when it cannot be written.
        """
        self.refresh()
        self._refuse_used_steps(charge, attempt, first_step)
        together = (*self.charges, charge)
        if not self._fits(together):
            raise BudgetExceededError(
                f"{charge.num_steps} more steps of {charge.purpose} would bring epsilon from"
                f" {self._epsilon(self.charges):.6f} to {self._epsilon(together):.6f}, over the target"
                f" {self.target['target_epsilon']} at delta {self.target['target_delta']}; nothing was charged"
            )
        self._append("charge", {"attempt": attempt, "first_step": first_step, "charge": charge.to_dict()})

    def affordable_steps(self, charge_like: Charge, up_to: int) -> int:
        """The largest n <= up_to such that charging n steps of charge_like still fits; 0 when none does.

        Epsilon rises with n: all of up_to is tried first, then the range is halved.
        """
        self.refresh()
        low, high = 0, max(up_to, 0) + 1
        middle = high - 1
        while low < middle:
            if self._fits((*self.charges, replace(charge_like, num_steps=middle))):
                low = middle
            else:
                high = middle
            middle = (low + high) // 2
        return low

    def refresh(self) -> None:
        """Reads what was added since. Raises PrivacyError when a known entry is gone or the chain is broken."""
        entries, found = list(self._entries), _count_entries(self._store)
        if found < len(entries):
            raise PrivacyError(f"{self._store.uri} had {len(entries)} ledger entries and now has {found}")
        if entries and self._store.read_bytes(_name(len(entries) - 1)) != entries[-1].data:
            raise PrivacyError(f"ledger entry {len(entries) - 1} of {self._store.uri} changed after it was written")
        num_attempts = len(self.attempts)
        for index in range(len(entries), found):
            where = f"ledger entry {index} of {self._store.uri}"
            previous = entries[-1].digest if entries else None
            entries.append(_parse(self._store.read_bytes(_name(index)), index, previous, num_attempts, where))
            num_attempts += entries[-1].kind == "attempt"
        self._entries = tuple(entries)

    def _append(self, kind: str, body: dict[str, Any]) -> None:
        if self._is_read_only:
            raise PrivacyError(f"{self._store.uri} was opened with read_ledger; use open_ledger to write")
        index, previous = len(self._entries), self.head if self._entries else None
        # Whole hours: finer times would tell how long steps took, which depends on private batches.
        written_at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%HZ")
        entry = {"index": index, "previous_digest": previous, "kind": kind, "body": body}
        data = _with_digest({**entry, "written_at": written_at, "writer": self._writer})
        parsed = _parse(data, index, previous, len(self.attempts), "the new ledger entry")
        # An equal file is this very call, whose first answer was lost: the writer token is random.
        if not self._store.create_exclusive(_name(index), data) and self._store.read_bytes(_name(index)) != data:
            raise PrivacyError(f"another writer is at work in {self._store.uri}; stop one of the two runs")
        self._entries = (*self._entries, parsed)

    def _bodies(self, kind: str) -> list[Mapping[str, Any]]:
        return [entry.body for entry in self._entries if entry.kind == kind]

    def _epsilon(self, charges: tuple[Charge, ...]) -> float:
        return epsilon_pld(charges, self.target["target_delta"])

    def _fits(self, charges: tuple[Charge, ...]) -> bool:
        """Whether charges stay within the target. Part of what is known to fit fits: epsilon is monotone."""
        steps = {(c.mechanism, c.sample_rate, c.noise_multiplier): c.num_steps for c in merge_charges(charges)}
        if all(n <= self._known_to_fit.get(key, 0) for key, n in steps.items()):
            return True
        if self._epsilon(charges) > self.target["target_epsilon"] + _TOLERANCE:
            return False
        self._known_to_fit = steps
        return True

    def _refuse_used_steps(self, charge: Charge, attempt: int, first_step: int | None) -> None:
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


def open_ledger(
    store: Store,
    *,
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: str = "add_or_remove_one",
    unit: str = "example",
    must_contain: str | None = None,
) -> Ledger:
    """Creates the ledger of a folder, or resumes it and verifies the chain.

    must_contain: a Ledger.head seen earlier; a folder cut back behind it is refused.
    Raises PrivacyError when the folder was opened with another target, or an entry is missing or altered.
    """
    target = {
        "target_epsilon": float(target_epsilon),
        "target_delta": float(target_delta),
        "neighboring_relation": neighboring_relation,
        "unit": unit,
    }
    ledger = Ledger(store, is_read_only=False)
    ledger.refresh()
    if not ledger._entries:
        ledger._append("open", target)
    if ledger.target != target:
        raise PrivacyError(f"{store.uri} was opened with {ledger.target}; got {target}; use another folder")
    return _containing(ledger, must_contain)


def read_ledger(store: Store, *, must_contain: str | None = None) -> Ledger:
    """The ledger of a folder, verified, that refuses to write. Raises PrivacyError when there is none."""
    ledger = Ledger(store, is_read_only=True)
    ledger.refresh()
    if not ledger._entries:
        raise PrivacyError(f"{store.uri} holds no ledger; without it nothing is known of the epsilon spent")
    return _containing(ledger, must_contain)


def _containing(ledger: Ledger, digest: str | None) -> Ledger:
    if digest is not None and digest not in {entry.digest for entry in ledger._entries}:
        raise PrivacyError(f"{ledger._store.uri} lacks entry {digest[:12]}..., seen earlier; it was cut or swapped")
    return ledger


def _name(index: int) -> str:
    return f"{index:06d}.json"


def _count_entries(store: Store) -> int:
    names = {name for name in store.list_files() if not name.startswith(".")}
    if names != {_name(index) for index in range(len(names))}:
        odd = sorted(names - {_name(index) for index in range(len(names))})
        raise PrivacyError(f"{store.uri} has an entry missing or a file that is not one: {odd[:3]}")
    return len(names)


def _with_digest(fields: Mapping[str, Any]) -> bytes:
    """Canonical JSON of fields and the sha256 of their canonical JSON."""

    def canonical(values: Mapping[str, Any]) -> bytes:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    try:
        digest = hashlib.sha256(canonical(fields)).hexdigest()
        return canonical({**fields, "digest": digest})
    except (TypeError, ValueError) as error:
        raise SpecError(f"a ledger entry must be plain JSON: {error}") from None


def _parse(data: bytes, index: int, previous: str | None, num_attempts: int, where: str) -> Entry:
    """Raises PrivacyError unless data is, byte for byte, an entry that may stand at index."""
    try:
        fields = json.loads(data)
        digest = fields.pop("digest")
        if _with_digest(fields) != data:
            raise ValueError("its digest does not match")
        if (fields["index"], fields["previous_digest"]) != (index, previous):
            raise ValueError("it does not follow the entry before it")
        kind, body = fields["kind"], fields["body"]
        _BODY_CHECKS[kind](num_attempts, **body)
        if (kind == "open") != (index == 0):
            raise ValueError("exactly the first entry opens a ledger")
    except (ValueError, TypeError, KeyError, AttributeError, SpecError) as error:
        raise PrivacyError(f"{where} is not valid: {error}") from error
    return Entry(kind=kind, body=body, digest=digest, data=data)


def _check_open(_: int, *, target_epsilon: float, target_delta: float, neighboring_relation: str, unit: str) -> None:
    if not (0 < target_epsilon < math.inf and 0 < target_delta < 1):
        raise ValueError(f"target ({target_epsilon}, {target_delta}); expected epsilon above 0, delta in (0, 1)")
    if neighboring_relation != "add_or_remove_one" or not unit:
        raise ValueError(f"got {neighboring_relation!r} of {unit!r}; only add_or_remove_one is accounted for")


def _check_attempt(num_attempts: int, *, attempt: int, plan: dict[str, Any]) -> None:
    if attempt != num_attempts + 1 or not isinstance(plan, dict):
        raise ValueError(f"attempt {attempt} after {num_attempts} attempts; expected the next number and a plan")


def _check_charge(num_attempts: int, *, attempt: int, first_step: int | None, charge: dict[str, Any]) -> None:
    Charge.from_dict(charge)
    if type(attempt) is not int or not 1 <= attempt <= num_attempts:
        raise ValueError(f"attempt {attempt} was never begun; call begin_attempt")
    if first_step is not None and (type(first_step) is not int or first_step < 0):
        raise ValueError(f"first_step is {first_step!r}; expected a whole number of at least 0, or None")


_BODY_CHECKS = {"open": _check_open, "attempt": _check_attempt, "charge": _check_charge}
