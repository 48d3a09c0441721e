"""Watching a run's ledger from outside: epsilon is read off its entries, wherever and by whomever they are written."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

from rapid_dist.errors import InputError, PrivacyError, StorageError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.storage.store import Store

LOOK_EVERY_SECONDS = 5.0


class LedgerWatch:
    """Shows what the ledger says now, each time look() is called; an absent ledger is not a failure."""

    def __init__(self, store: Store, recorder: Recorder):
        self._store, self._recorder = store, recorder
        self._ledger: Any = None
        self._shown: str | None = None
        for operation in ("read", "verify", "write"):
            recorder.add(catalog.LEDGER_FAILURES, 0, operation=operation)

    def look(self) -> None:
        """Reads the ledger and sets the gauges; a ledger that cannot be read or verified is counted, not raised."""
        try:
            self._show()
        except (StorageError, InputError):
            self._recorder.add(catalog.LEDGER_FAILURES, operation="read")
        except PrivacyError:
            self._recorder.add(catalog.LEDGER_FAILURES, operation="verify")

    def _show(self) -> None:
        from rapid_dist.privacy.ledger import has_ledger, read_ledger

        if self._ledger is None:
            if not has_ledger(self._store):
                return
            self._ledger = read_ledger(self._store)
        else:
            self._ledger.refresh()
        ledger = self._ledger
        if ledger.head == self._shown:
            return
        names = [name for name in self._store.list_files() if not name.startswith(".")]
        record = self._recorder.set
        record(catalog.TARGET_EPSILON, ledger.target["target_epsilon"])
        record(catalog.TARGET_DELTA, ledger.target["target_delta"])
        # An attempt with a debugging key promises nothing, so no number bounds what all of them together tell.
        record(catalog.SPENT_EPSILON, math.inf if ledger.not_private_reasons else ledger.spent_epsilon())
        record(catalog.LEDGER_ATTEMPTS, len(ledger.attempts))
        record(catalog.LEDGER_ENTRIES, len(names))
        self._shown = ledger.head


@contextlib.contextmanager
def watched_ledger(store: Store, recorder: Recorder) -> Iterator[None]:
    """Looks at the ledger every few seconds while the block runs, and once more when it ends."""
    if not recorder.is_on:
        yield
        return
    watch, stop = LedgerWatch(store, recorder), threading.Event()

    def poll() -> None:
        watch.look()
        while not stop.wait(LOOK_EVERY_SECONDS):
            watch.look()

    thread = threading.Thread(target=poll, name="ledger-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        watch.look()
