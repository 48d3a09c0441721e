"""`ledger show` and `ledger verify`: attempts that are not private are marked, and a remembered head must be there."""

from __future__ import annotations

import json

import pytest

from rapid_dist.cli import main
from rapid_dist.privacy.ledger import FIXED_KEY_REASON, open_ledger
from rapid_dist.storage.store import Store
from tests.training.helpers import make_plan

PLAN = make_plan(is_private=True)
STUDY = {"study": "s", "study_target_epsilon": 40.0, "study_target_delta": 1e-3}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "ledger")


@pytest.fixture
def ledger(store):
    """A private job, and two trials of a study, all private so far."""
    ledger = open_ledger(store, **PLAN.ledger_terms())
    for job, terms in (("alone", {}), ("s/t0", STUDY), ("s/t1", STUDY)):
        attempt = ledger.begin_attempt({**PLAN.to_plain(), **terms}, job=job)
        ledger.charge(PLAN.training_charge(2), attempt=attempt, first_step=0)
    return ledger


@pytest.fixture
def debugged(ledger):
    """The same after an attempt of a trial with the debugging key."""
    attempt = ledger.begin_attempt({**PLAN.to_plain(), "is_private": False, **STUDY}, job="s/t1")
    ledger.charge(PLAN.training_charge(1), attempt=attempt, first_step=2)
    return ledger


def last_json(result) -> dict:
    return json.loads(result.stdout.splitlines()[-1])


def test_private_attempts_alone_are_shown_and_verified_without_a_mark(call, ledger, store):
    shown, verified = call("ledger", "show", store.uri), call("ledger", "verify", store.uri)
    assert "NOT PRIVATE" not in shown.stdout + verified.stdout
    assert (shown.exit_code, verified.exit_code) == (0, 0)
    assert last_json(call("ledger", "show", store.uri, "--json"))["not_private_reasons"] == []
    assert last_json(call("ledger", "verify", store.uri, "--json"))["not_private_reasons"] == []


def test_show_marks_attempts_jobs_and_studies_that_are_not_private_and_ends_with_it(call, debugged, store):
    lines = call("ledger", "show", store.uri).stdout.splitlines()
    charges = [line for line in lines if " training " in line]
    assert [line.endswith("  NOT PRIVATE") for line in charges] == [False, False, False, True]
    marked = {line.partition(":")[0] for line in lines if line.partition(": ")[2].startswith("NOT PRIVATE, epsilon")}
    assert marked == {"job s/t1", "study s"}
    assert lines[-1].startswith(f"NOT PRIVATE: {FIXED_KEY_REASON}; ")
    assert f"epsilon {debugged.spent_epsilon():.4f} of 50" in lines[-1]


def test_show_tells_programs_why(call, debugged, store):
    shown = last_json(call("ledger", "show", store.uri, "--json"))
    assert shown["not_private_reasons"] == [FIXED_KEY_REASON]
    assert {job: facts["not_private_reasons"] for job, facts in shown["jobs"].items()} == {
        "alone": [],
        "s/t0": [],
        "s/t1": [FIXED_KEY_REASON],
    }
    assert shown["studies"]["s"]["not_private_reasons"] == [FIXED_KEY_REASON]


def test_verify_ends_with_not_private_and_exit_code_1(call, debugged, store):
    spoken, told = call("ledger", "verify", store.uri), call("ledger", "verify", store.uri, "--json")
    assert (spoken.exit_code, told.exit_code) == (1, 1)
    assert spoken.stdout.splitlines()[-1].startswith(f"NOT PRIVATE: {FIXED_KEY_REASON}")
    assert last_json(told)["not_private_reasons"] == [FIXED_KEY_REASON]
    assert (last_json(told)["verified"], last_json(told)["head"]) == (True, debugged.head)


def test_verify_looks_for_a_remembered_head(call, refused, ledger, store):
    remembered = ledger.head
    copied = {name: store.read_bytes(name) for name in store.list_files()}
    later = ledger.charge(PLAN.training_charge(1), attempt=1, first_step=2).entry
    for head in (remembered, later):
        assert call("ledger", "verify", store.uri, "--head", head).exit_code == 0
    for name in store.list_files():  # an owner puts an older copy back
        store.delete(name)
    for name, data in copied.items():
        store.write_bytes(name, data)
    assert call("ledger", "verify", store.uri).exit_code == 0
    assert call("ledger", "verify", store.uri, "--head", remembered).exit_code == 0
    assert "cut or swapped: restore it" in refused("ledger", "verify", store.uri, "--head", later)


def test_help_says_where_a_head_is_found_and_what_exit_codes_mean(call):
    words = " ".join(call("ledger", "verify", "--help").stdout.split())
    for part in ("ledger_head in every statement", "1 when the chain is unbroken but", "2 when it is refused"):
        assert part in words
    assert "verify" in main.commands["ledger"].commands
