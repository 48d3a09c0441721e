"""Which entries of a ledger count for a job that inherited from another, and for a study of many jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rapid_dist.privacy.ledger_entry import Entry

INHERITS, STUDY = "inherits", "study"


def counted_for_job(entries: Sequence[Entry], job: str, plan: Mapping[str, Any] | None = None) -> tuple[Entry, ...]:
    """The charges of a job's attempts and of what they inherited, each once, in the order written.

    An attempt that inherits (donor, entry) holds whatever counted for the donor up to and including that entry. plan:
    that of an attempt about to be written, whose inheritance counts too.
    """
    found = _places(entries, job, len(entries) - 1, {})
    if plan is not None and INHERITS in plan:
        found = found | _inherited(entries, plan[INHERITS], {})
    return tuple(entries[place] for place in sorted(found))


def counted_for_study(entries: Sequence[Entry], study: str) -> tuple[Entry, ...]:
    """The charges of all attempts whose plan names the study, and of what these inherited, each once."""
    memo: dict[tuple[str, int], frozenset[int]] = {}
    attempts = [entry.body for entry in entries if entry.kind == "attempt"]
    numbers = {body["attempt"] for body in attempts if body["plan"].get(STUDY) == study}
    found = frozenset(i for i, e in enumerate(entries) if e.kind == "charge" and e.body["attempt"] in numbers)
    for body in attempts:
        if body["attempt"] in numbers and INHERITS in body["plan"]:
            found = found | _inherited(entries, body["plan"][INHERITS], memo)
    return tuple(entries[place] for place in sorted(found))


def own_charges(entries: Sequence[Entry], job: str) -> tuple[Entry, ...]:
    """The charges of a job's attempts alone."""
    numbers = {e.body["attempt"] for e in entries if e.kind == "attempt" and e.body["job"] == job}
    return tuple(e for e in entries if e.kind == "charge" and e.body["attempt"] in numbers)


def _places(
    entries: Sequence[Entry], job: str, last: int, memo: dict[tuple[str, int], frozenset[int]]
) -> frozenset[int]:
    """Indices, up to last, of the entries counted for a job; it ends since what is inherited is older than its heir."""
    if (job, last) in memo:
        return memo[job, last]
    numbers: set[int] = set()
    found: set[int] = set()
    for place, entry in enumerate(entries[: last + 1]):
        if entry.kind == "attempt" and entry.body["job"] == job:
            numbers.add(entry.body["attempt"])
            if INHERITS in entry.body["plan"]:
                found |= _inherited(entries, entry.body["plan"][INHERITS], memo)
        elif entry.kind == "charge" and entry.body["attempt"] in numbers:
            found.add(place)
    memo[job, last] = frozenset(found)
    return memo[job, last]


def _inherited(
    entries: Sequence[Entry], inherits: Mapping[str, str], memo: dict[tuple[str, int], frozenset[int]]
) -> frozenset[int]:
    place = next(i for i, entry in enumerate(entries) if entry.digest == inherits["entry"])
    return _places(entries, inherits["job"], place, memo)
