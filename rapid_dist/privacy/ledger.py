"""The privacy ledger of a dataset: every use of it, written down before it happens, and never taken back.

One small file per entry, 000000.json and up, each naming the digest of the one before. Several jobs may write
at once: an entry is created only if absent, so one wins and the others look again before they spend. The chain
finds damage and edits; against someone who may rewrite or cut the whole folder, keep Ledger.head elsewhere (a
checkpoint, a statement) and ask require_entry for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.ledger_book import Ledger
from rapid_dist.privacy.ledger_chain import FIRST_ENTRY
from rapid_dist.privacy.ledger_entry import make_entry

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
