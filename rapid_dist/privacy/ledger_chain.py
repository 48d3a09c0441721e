"""A chain of entries in a folder, shared by several writers: read whole, checked, and lengthened one by one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.ledger_entry import Entry, make_entry, parse_entry

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
