"""A private checkpoint is gone on from only by the job that paid for it, with the ledger that counts it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import NOT_PRIVATE, read_ledger
from rapid_dist.privacy.plan import OneWorker
from rapid_dist.privacy.statement import checkpoint_statement_line
from rapid_dist.storage.store import Store
from rapid_dist.training.private import PrivateAttempt, open_attempt
from rapid_dist.training.state import check_stamp, checkpoint_notes
from tests.training.helpers import (
    Place,
    begin_attempt,
    make_plan,
    make_records,
    make_state,
    open_tiny_ledger,
    run_group,
    train,
)


@pytest.fixture
def place(tmp_path) -> Place:
    place = Place(tmp_path)
    run_group(place, [make_records(12)], plan=make_plan(is_private=True))
    return place


def test_a_checkpoint_names_its_job_and_the_entry_that_paid(place):
    notes = checkpoint_notes(place.checkpoints.latest())
    assert notes["job"] == "run"
    assert notes["ledger_entry"] == read_ledger(place.ledger).head
    assert notes["not_private"] == ""


def test_a_checkpoint_carries_the_statement_of_its_job_to_whoever_gets_it_alone(tmp_path):
    place, plan = Place(tmp_path), make_plan(is_private=True)
    attempt = begin_attempt(place.ledger, plan)
    stated = replace(attempt, statement_fn=lambda: checkpoint_statement_line(plan, attempt.ledger.of_job("run")))
    train(make_state(), make_records(12), stated, place.checkpoints, plan=plan)
    statement = json.loads(checkpoint_notes(place.checkpoints.latest())["statement"])
    paid = read_ledger(place.ledger)
    assert paid.spent_epsilon() <= statement["epsilon"] < paid.spent_epsilon() + 0.01
    assert statement["ledger_head"] == paid.head
    assert statement["words"].startswith("The synthetic images are (")


def test_a_checkpoint_of_a_trial_that_may_not_leave_says_so_and_is_resumed_all_the_same(tmp_path):
    place, plan = Place(tmp_path), make_plan(is_private=True)
    reason = "a trial of a study of which only the winner may leave"
    ledger = open_tiny_ledger(place.ledger, plan)
    number = ledger.begin_attempt({**plan.to_plain(), NOT_PRIVATE: reason})
    attempt = PrivateAttempt(
        number=number,
        key=RunKey.fresh(),
        ledger=ledger,
        statement_fn=lambda: checkpoint_statement_line(plan, ledger.scope_of("run")),
    )
    train(make_state(), make_records(12), attempt, place.checkpoints, plan=plan)
    notes = checkpoint_notes(place.checkpoints.latest())
    assert notes["not_private"] == reason
    assert json.loads(notes["statement"])["words"] == f"NOT PRIVATE: {reason}"
    check(place, plan=plan)


def check(place, *, plan=None, job="run", store=None):
    ledger = read_ledger(store or place.ledger)
    plan = plan or make_plan(is_private=True)
    check_stamp(place.checkpoints.latest(), plan=plan, job=job, require_counted=ledger.require_counted)


def test_its_own_job_may_go_on(place):
    check(place)


def test_another_job_may_not(place):
    with pytest.raises(PrivacyError, match="would not be counted"):
        check(place, job="another")


def test_a_ledger_cut_back_behind_the_checkpoint_is_refused(place, tmp_path):
    """A ledger restored from a copy made with an earlier checkpoint knows nothing of the later steps."""
    restored = Store(tmp_path / "restored")
    for name in place.ledger.list_files()[:-1]:
        restored.write_bytes(name, place.ledger.read_bytes(name))
    with pytest.raises(PrivacyError, match="cut or swapped"):
        check(place, store=restored)


def test_a_debugging_checkpoint_says_so_and_is_not_gone_on_from_privately(tmp_path):
    place = Place(tmp_path)
    run_group(place, [make_records(12)], plan=make_plan())
    assert "fixed debugging key" in checkpoint_notes(place.checkpoints.latest())["not_private"]
    check(place, plan=make_plan())
    with pytest.raises(PrivacyError, match="NOT PRIVATE"):
        check(place)


def test_the_terms_of_an_attempt_are_written_into_the_ledger_and_cannot_change_the_plan(tmp_path):
    plan = make_plan(is_private=True)
    ledger = open_tiny_ledger(Store(tmp_path / "ledger"), plan)
    study = {"study": "s", "study_target_epsilon": 40.0, "study_target_delta": plan.target_delta}
    values = {"ledger": ledger, "job": "a", "debug_fixed_key": None, "collective": OneWorker()}
    attempt = open_attempt(plan, attempt_terms=study, **values)
    assert ledger.attempts[attempt.number - 1] == {**plan.to_plain(), **study}
    with pytest.raises(PrivacyError, match="target_epsilon"):
        open_attempt(plan, attempt_terms={"target_epsilon": 99.0}, **values)
    assert len(ledger.attempts) == 1
