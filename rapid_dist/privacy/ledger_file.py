"""The ledger on its store: entries, each naming the digest of the one before, created only if absent."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.charges import BoundedCharge, charge_from_dict
from rapid_dist.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the ledger, read and checked; digest is the sha256 of all its other fields.

    request: a random name of the call that asked for it, so that a call made again finds what it already wrote.
    """

    kind: str
    body: Mapping[str, Any]
    request: str
    digest: str
    data: bytes


def make_entry(kind: str, body: Mapping[str, Any], *, before: Sequence[Entry], request: str) -> Entry:
    """The entry that follows the ones before it. Raises PrivacyError when it may not, SpecError when it is not JSON."""
    fields = {
        "index": len(before),
        "previous_digest": before[-1].digest if before else None,
        "kind": kind,
        "body": dict(body),
        "request": request,
        # Whole hours: finer times would tell how long steps took, which depends on private batches.
        "written_at": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%HZ"),
    }
    return parse_entry(_with_digest(fields), before=before, where="the new ledger entry")


def parse_entry(data: bytes, *, before: Sequence[Entry], where: str) -> Entry:
    """Raises PrivacyError unless data is, byte for byte, an entry that may follow the ones before it."""
    previous = before[-1].digest if before else None
    try:
        fields = json.loads(data)
        digest = fields.pop("digest")
        if _with_digest(fields) != data:
            raise ValueError("its digest does not match")
        if (fields["index"], fields["previous_digest"]) != (len(before), previous):
            raise ValueError("it does not follow the entry before it")
        kind, body, request = fields["kind"], fields["body"], fields["request"]
        _BODY_CHECKS[kind](before, **body)
        if (kind == "open") != (not before):
            raise ValueError("exactly the first entry opens a ledger")
        if not isinstance(request, str) or not request or any(request == entry.request for entry in before):
            raise ValueError("its request is missing or was answered before")
    except (ValueError, TypeError, KeyError, AttributeError, SpecError) as error:
        raise PrivacyError(f"{where} is not valid: {error}") from error
    return Entry(kind=kind, body=body, request=request, digest=digest, data=data)


def _with_digest(fields: Mapping[str, Any]) -> bytes:
    """Canonical JSON of fields and the sha256 of their canonical JSON."""

    def canonical(values: Mapping[str, Any]) -> bytes:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    try:
        digest = hashlib.sha256(canonical(fields)).hexdigest()
        return canonical({**fields, "digest": digest})
    except (TypeError, ValueError) as error:
        raise SpecError(f"a ledger entry must be plain JSON: {error}") from None


def _check_open(
    _: Sequence[Entry], *, target_epsilon: float, target_delta: float, neighboring_relation: str, unit: str
) -> None:
    if not (0 < target_epsilon < math.inf and 0 < target_delta < 1):
        raise ValueError(f"target ({target_epsilon}, {target_delta}); expected epsilon above 0, delta in (0, 1)")
    if neighboring_relation != "add_or_remove_one" or not unit:
        raise ValueError(f"got {neighboring_relation!r} of {unit!r}; only add_or_remove_one is accounted for")


def _check_attempt(before: Sequence[Entry], *, attempt: int, job: str, plan: dict[str, Any]) -> None:
    num_attempts = _num_attempts(before)
    if attempt != num_attempts + 1 or not isinstance(plan, dict):
        raise ValueError(f"attempt {attempt} after {num_attempts} attempts; expected the next number and a plan")
    if not isinstance(job, str) or not job:
        raise ValueError(f"job is {job!r}; expected the name of the job that the attempt belongs to")
    if any(name in plan for name in STUDY_TERMS):
        terms: dict[str, Any] = {name: plan.get(name) for name in STUDY_TERMS}
        _check_study(before, **terms)
    if "inherits" in plan:
        raise ValueError("it inherits charges of another job, which an earlier version counted; read it with that one")


def _check_study(
    before: Sequence[Entry], *, study: str, study_target_epsilon: float, study_target_delta: float
) -> None:
    """A study's limit is that of its first attempt: it cannot be raised by naming another."""
    target = (study_target_epsilon, study_target_delta)
    if not isinstance(study, str) or not study or not all(type(value) in (int, float) for value in target):
        raise ValueError(f"study {study!r} of target {target}; expected a name, an epsilon and a delta")
    if not (0 < study_target_epsilon < math.inf and 0 < study_target_delta < 1):
        raise ValueError(f"study target {target}; expected epsilon above 0, delta in (0, 1)")
    for plan in (entry.body["plan"] for entry in before if entry.kind == "attempt"):
        known = (plan.get("study_target_epsilon"), plan.get("study_target_delta"))
        if plan.get("study") == study and known != target:
            raise ValueError(f"study {study!r} has target {known}, not {target}; use its target, or another name")


def _check_charge(before: Sequence[Entry], *, attempt: int, first_step: int | None, charge: dict[str, Any]) -> None:
    is_bounded = isinstance(charge_from_dict(charge), BoundedCharge)
    if type(attempt) is not int or not 1 <= attempt <= _num_attempts(before):
        raise ValueError(f"attempt {attempt} was never begun; call begin_attempt")
    if first_step is not None and (is_bounded or type(first_step) is not int or first_step < 0):
        raise ValueError(f"first_step is {first_step!r}; expected a whole number of at least 0, or None without steps")


def _num_attempts(entries: Sequence[Entry]) -> int:
    return sum(entry.kind == "attempt" for entry in entries)


STUDY_TERMS = ("study", "study_target_epsilon", "study_target_delta")
_BODY_CHECKS: dict[str, Callable[..., None]] = {"open": _check_open, "attempt": _check_attempt, "charge": _check_charge}

FIRST_ENTRY = "000000.json"
_MAX_RACES = 1000


class Chain:
    """Files 000000.json and up, each naming the digest of the one before, created only if absent.

    Guarantee: an entry is never changed or removed; of two writers of one place one wins, and the other looks
    again at the whole before it writes behind.
    """

    def __init__(self, store: Store):
        self.store = store
        self.entries: tuple[Entry, ...] = ()

    def bodies(self, kind: str) -> list[Mapping[str, Any]]:
        """The bodies of all entries of a kind, in the order written."""
        return [entry.body for entry in self.entries if entry.kind == kind]

    def refresh(self) -> None:
        """Reads what was added since. Raises PrivacyError when a known entry is gone or the chain is broken."""
        entries, found = list(self.entries), self._count()
        uri = self.store.uri
        if found < len(entries):
            raise PrivacyError(f"{uri} had {len(entries)} ledger entries and now has {found}")
        if entries and self.store.read_bytes(_name(len(entries) - 1)) != entries[-1].data:
            raise PrivacyError(f"ledger entry {len(entries) - 1} of {uri} changed after it was written")
        for index in range(len(entries), found):
            where = f"ledger entry {index} of {uri}"
            entries.append(parse_entry(self.store.read_bytes(_name(index)), before=entries, where=where))
        self.entries = tuple(entries)

    def answer_to(self, request: str | None) -> Entry | None:
        """The entry that an earlier call with this request wrote, if any."""
        return next((entry for entry in self.entries if entry.request == request), None)

    def append(self, kind: str, make_body: Callable[[], dict[str, Any]], request: str | None = None) -> Entry:
        """Writes what make_body returns on the newest state of the folder; make_body refuses by raising.

        A request that was answered before gives the same entry again and writes nothing.
        """
        request = request or secrets.token_hex(16)
        for _ in range(_MAX_RACES):
            self.refresh()
            done = self.answer_to(request)
            if done is not None:
                return done
            entry = make_entry(kind, make_body(), before=self.entries, request=request)
            name = _name(len(self.entries))
            # An equal file is this very call, whose first answer was lost: the request is random.
            if self.store.create_exclusive(name, entry.data) or self.store.read_bytes(name) == entry.data:
                self.entries = (*self.entries, entry)
                return entry
        raise PrivacyError(
            f"other writers in {self.store.uri} were quicker {_MAX_RACES} times; run the same line again"
        )

    def require(self, digest: str) -> None:
        """Raises PrivacyError unless the entry with this digest, seen earlier, is still there."""
        self.refresh()
        if digest not in {entry.digest for entry in self.entries}:
            raise PrivacyError(
                f"{self.store.uri} lacks entry {digest[:12]}..., seen earlier; it was cut or swapped: restore it"
            )

    def _count(self) -> int:
        names = {name for name in self.store.list_files() if not name.startswith(".")}
        expected = {_name(index) for index in range(len(names))}
        if names != expected:
            odd = sorted(names - expected)
            raise PrivacyError(f"{self.store.uri} has an entry missing or a file that is not one: {odd[:3]}")
        return len(names)


def _name(index: int) -> str:
    return f"{index:06d}.json"
