"""The watch reads epsilon off the ledger and survives a ledger it cannot read."""

import math

import pytest

from rapid_dist.errors import StorageError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.ledger_watch import LedgerWatch, watched_ledger
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.privacy.ledger import open_ledger, read_ledger
from rapid_dist.privacy.release import histogram_charge
from rapid_dist.storage.store import Store
from tests.metrics.recorded import kept_recorder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "ledger")


def charge_once(store, attempt=None):
    ledger = open_ledger(store, target_epsilon=8, target_delta=1e-5)
    attempt = attempt or ledger.begin_attempt({"steps": 1})
    ledger.charge(histogram_charge(4.0), attempt=attempt)
    return ledger


def test_the_gauges_say_what_the_ledger_says(store):
    recorder, kept = kept_recorder()
    watch = LedgerWatch(store, recorder)
    watch.look()
    assert kept.of(catalog.SPENT_EPSILON) == []
    charge_once(store)
    watch.look()
    assert kept.of(catalog.SPENT_EPSILON) == [read_ledger(store).spent_epsilon()]
    assert kept.of(catalog.TARGET_EPSILON) == [8]
    assert kept.of(catalog.TARGET_DELTA) == [1e-5]
    assert kept.of(catalog.LEDGER_ATTEMPTS) == [1]
    assert kept.of(catalog.LEDGER_ENTRIES) == [3]


def test_an_unchanged_ledger_is_not_computed_again(store):
    recorder, kept = kept_recorder()
    watch = LedgerWatch(store, recorder)
    charge_once(store)
    watch.look()
    watch.look()
    assert len(kept.of(catalog.SPENT_EPSILON)) == 1
    charge_once(store)
    watch.look()
    first, second = kept.of(catalog.SPENT_EPSILON)
    assert second > first
    assert kept.of(catalog.LEDGER_ATTEMPTS) == [1, 2]


def test_a_store_that_does_not_answer_is_counted(store, monkeypatch):
    recorder, kept = kept_recorder()
    watch = LedgerWatch(store, recorder)

    def gone(*_):
        raise StorageError("gone")

    monkeypatch.setattr(Store, "list_files", gone)
    watch.look()
    assert sum(kept.of(catalog.LEDGER_FAILURES, "read")) == 1


def test_a_broken_chain_is_counted(store, tmp_path):
    recorder, kept = kept_recorder()
    charge_once(store)
    entry = tmp_path / "ledger" / "000001.json"
    entry.write_bytes(entry.read_bytes().replace(b'"attempt":1', b'"attempt":2'))
    LedgerWatch(store, recorder).look()
    assert sum(kept.of(catalog.LEDGER_FAILURES, "verify")) == 1
    assert kept.of(catalog.SPENT_EPSILON) == []


def test_a_ledger_with_a_debugging_key_shows_an_infinite_epsilon(store):
    """A finite number would read as a bound on what the attempts with that key told, and there is none."""
    recorder, kept = kept_recorder()
    watch = LedgerWatch(store, recorder)
    ledger = charge_once(store)
    watch.look()
    ledger.begin_attempt({"is_private": False}, job="debugging")
    watch.look()
    assert [math.isinf(value) for value in kept.of(catalog.SPENT_EPSILON)] == [False, True]
    assert "+Inf" in catalog.SPENT_EPSILON.text


def test_a_folder_with_leftovers_alone_is_no_ledger_and_no_failure(store):
    recorder, kept = kept_recorder()
    store.write_bytes(".create-if-absent", b"{}")
    LedgerWatch(store, recorder).look()
    assert kept.of(catalog.SPENT_EPSILON) == []
    assert sum(kept.of(catalog.LEDGER_FAILURES, "verify")) == 0


def test_failures_are_shown_as_zero_before_the_first(store):
    recorder, kept = kept_recorder()
    LedgerWatch(store, recorder)
    assert [kept.of(catalog.LEDGER_FAILURES, name) for name in ("read", "verify", "write")] == [[0], [0], [0]]


def test_the_last_look_is_after_the_work(store):
    recorder, kept = kept_recorder()
    with watched_ledger(store, recorder):
        charge_once(store)
    assert kept.of(catalog.SPENT_EPSILON)[-1] == read_ledger(store).spent_epsilon()


def test_without_metrics_nothing_is_read(store, monkeypatch):
    monkeypatch.setattr(LedgerWatch, "look", lambda self: pytest.fail("looked"))
    with watched_ledger(store, Recorder()):
        pass
