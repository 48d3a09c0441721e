"""Several jobs on one dataset share its budget; each keeps within its own target; a call made again spends once."""

from __future__ import annotations

import pytest

from rapid_dist.errors import BudgetExceededError, PrivacyError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import join_ledger, open_ledger, read_ledger
from rapid_dist.storage.store import Store

BUDGET = {"target_epsilon": 1.0, "target_delta": 1e-5}
SMALL = {"target_epsilon": 0.4, "target_delta": 1e-5}


def steps(num_steps: int, **changes) -> Charge:
    values = {"mechanism": "poisson_gaussian", "noise_multiplier": 4.0, "sample_rate": 0.05, "purpose": "training"}
    return Charge(num_steps=num_steps, **{**values, **changes})


def affordable(epsilon: float) -> int:
    n = 1
    while epsilon_pld([steps(n + 1)], 1e-5) <= epsilon:
        n += 1
    return n


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "ledger")


def test_a_job_keeps_within_its_own_target_however_much_the_dataset_has_left(store):
    ledger = open_ledger(store, **BUDGET)
    attempt = ledger.begin_attempt(SMALL, job="a")
    most = affordable(0.4)
    assert ledger.affordable_steps(steps(1), 10_000, attempt=attempt) == most
    with pytest.raises(BudgetExceededError, match=r"over the target 0.4"):
        ledger.charge(steps(most + 1), attempt=attempt, first_step=0)
    ledger.charge(steps(most), attempt=attempt, first_step=0)
    assert ledger.charge_up_to(steps(1), 5, attempt=attempt, first_step=most) is None
    other = ledger.begin_attempt(SMALL, job="b")
    assert ledger.charge_up_to(steps(1), 5, attempt=other, first_step=0).steps == range(5)


def test_all_jobs_together_keep_within_the_budget_of_the_dataset(store):
    ledger = open_ledger(store, **BUDGET)
    for job in "abcdefgh":
        attempt = ledger.begin_attempt(SMALL, job=job)
        ledger.charge_up_to(steps(1), 10_000, attempt=attempt, first_step=0)
    assert ledger.spent_epsilon() <= 1.0 < epsilon_pld([steps(ledger.spent_steps + 1)], 1e-5)
    assert all(epsilon_pld(ledger.charges_of(job), 1e-5) <= 0.4 for job in ledger.jobs)
    assert ledger.charges_of("a")
    assert not ledger.charges_of("h")


def test_an_attempt_of_a_job_counts_with_its_earlier_attempts_only(store):
    ledger = open_ledger(store, **BUDGET)
    for job in ("a", "b", "a"):
        attempt = ledger.begin_attempt(SMALL, job=job)
        ledger.charge(steps(10), attempt=attempt, first_step=0)
    assert [c.num_steps for c in ledger.charges_of("a")] == [10, 10]
    assert ledger.of_job("a").charges == ledger.charges_of("a")
    assert len(ledger.of_job("a").attempts) == 2
    assert ledger.jobs == ("a", "b")


def test_a_job_whose_plan_exceeds_what_is_left_is_refused_before_it_begins(store):
    ledger = open_ledger(store, **BUDGET)
    first = ledger.begin_attempt(SMALL, job="a", planned=[steps(affordable(0.4))])
    ledger.charge(steps(affordable(0.4)), attempt=first, first_step=0)
    before = store.list_files()
    planned = [steps(affordable(1.0) - affordable(0.4) + 1)]
    with pytest.raises(BudgetExceededError, match=r"the plan of this job .* over the dataset's budget 1\.0"):
        ledger.begin_attempt(BUDGET, job="b", planned=planned)
    assert store.list_files() == before
    # The job that has begun may go on with what is left, though its plan no longer fits.
    assert ledger.begin_attempt(SMALL, job="a", planned=planned) == 2


def test_the_budget_that_was_set_first_holds_for_who_joins_with_more(store):
    open_ledger(store, **SMALL)
    ledger = join_ledger(store, **BUDGET)
    assert ledger.target["target_epsilon"] == 0.4
    attempt = ledger.begin_attempt(BUDGET, job="greedy")
    assert ledger.affordable_steps(steps(1), 10_000, attempt=attempt) == affordable(0.4)


def test_a_dataset_without_a_ledger_gets_the_budget_of_the_job_that_joins(store):
    assert join_ledger(store, **SMALL).target["target_epsilon"] == 0.4
    assert read_ledger(store).spent_epsilon() == 0


@pytest.mark.parametrize("change", [{"unit": "one person"}])
def test_a_job_that_counts_another_unit_is_refused(store, change):
    join_ledger(store, **BUDGET, unit="one image")
    with pytest.raises(PrivacyError, match="make them agree"):
        join_ledger(store, **BUDGET, **change)


def test_a_call_made_again_under_its_name_gets_the_same_answer_and_spends_once(store):
    ledger = open_ledger(store, **BUDGET)
    attempts = {join_ledger(store, **BUDGET).begin_attempt(SMALL, job="a", request="r1") for _ in range(3)}
    receipts = [
        join_ledger(store, **BUDGET).charge_up_to(steps(1), 4, attempt=1, first_step=0, request="r2") for _ in range(3)
    ]
    votes = steps(1, mechanism="gaussian", sample_rate=1.0, noise_multiplier=50.0, purpose="votes")
    receipts += [join_ledger(store, **BUDGET).charge(votes, attempt=1, request="r3") for _ in range(2)]
    assert attempts == {1}
    assert len({r.entry for r in receipts}) == 2
    assert [c.num_steps for c in read_ledger(store).charges] == [4, 1]
    assert ledger.spent_epsilon() == epsilon_pld([steps(4), votes], 1e-5)


def test_a_name_used_for_another_call_is_refused(store):
    ledger = open_ledger(store, **BUDGET)
    ledger.begin_attempt(SMALL, job="a")
    ledger.charge(steps(2), attempt=1, first_step=0, request="r")
    with pytest.raises(PrivacyError, match="new request"):
        ledger.charge(steps(2), attempt=1, first_step=2, request="r")
    assert ledger.spent_steps == 2


def test_a_receipt_names_the_entry_that_paid(store):
    ledger = open_ledger(store, **BUDGET)
    attempt = ledger.begin_attempt(SMALL, job="a")
    paid = ledger.charge(steps(7), attempt=attempt, first_step=3)
    assert (paid.attempt, paid.steps, paid.charge, paid.entry) == (1, range(3, 10), steps(7), ledger.head)
    ledger.require_entry(paid.entry)
    with pytest.raises(PrivacyError, match="cut or swapped"):
        ledger.require_entry("0" * 64)


def test_a_result_without_its_charge_is_noticed(store):
    ledger = open_ledger(store, **BUDGET)
    ledger.charge(steps(7), attempt=ledger.begin_attempt(SMALL, job="a"), first_step=0)
    ledger.require_charge(steps(7), job="a")
    for charge, job in ((steps(8), "a"), (steps(7), "b")):
        with pytest.raises(PrivacyError, match="lost or swapped"):
            ledger.require_charge(charge, job=job)
