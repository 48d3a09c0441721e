"""A study has a limit of its own over all its jobs, and a job's scope is its study; bounded charges are charges."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from rapid_dist.cli import main
from rapid_dist.errors import BudgetExceededError, PrivacyError, SpecError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.ledger_watch import LedgerWatch
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import BestRunCharge, Charge, SubsetCharge
from rapid_dist.privacy.ledger import PaidSteps, join_ledger, open_ledger, read_ledger
from rapid_dist.privacy.statement import build_statement, checkpoint_statement_line
from rapid_dist.storage.store import Store
from tests.training.helpers import make_plan

DELTA = 1e-5
BUDGET = {"target_epsilon": 3.0, "target_delta": DELTA}
STUDY = {"study": "s", "study_target_epsilon": 1.0, "study_target_delta": DELTA}
SUBSET = SubsetCharge(subset_rate=0.1, epsilon=2.293, delta=1e-6, purpose="tuning on a subset")


def steps(num_steps: int) -> Charge:
    return Charge(
        mechanism="poisson_gaussian", noise_multiplier=4.0, sample_rate=0.05, num_steps=num_steps, purpose="training"
    )


def most(epsilon: float) -> int:
    """The most steps that cost at most epsilon."""
    low, high = 1, 10_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon_pld([steps(middle)], DELTA) <= epsilon else (low, middle)
    return low


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "ledger")


@pytest.fixture
def ledger(store):
    return open_ledger(store, **BUDGET)


def begin(ledger, job: str, **terms) -> int:
    return ledger.begin_attempt({**STUDY, **terms}, job=job)


def test_all_trials_of_a_study_keep_within_its_limit_however_much_the_dataset_has_left(ledger):
    whole = most(1.0)
    for job in ("t0", "t1"):
        ledger.charge(steps(whole // 3), attempt=begin(ledger, job), first_step=0)
    third = begin(ledger, "t2")
    left = whole - 2 * (whole // 3)
    assert ledger.affordable_steps(steps(1), 10_000, attempt=third) == left
    with pytest.raises(BudgetExceededError, match=r"study 's' 1\.0"):
        ledger.charge(steps(left + 1), attempt=third, first_step=0)
    assert len(ledger.charge_up_to(steps(1), 10_000, attempt=third, first_step=0).steps) == left
    outside = ledger.begin_attempt({}, job="other")
    assert ledger.affordable_steps(steps(1), left, attempt=outside) == left
    ledger.charge(steps(5), attempt=outside, first_step=0)
    assert sum(c.num_steps for c in ledger.of_study("s").charges) == whole
    assert epsilon_pld(ledger.of_study("s").charges, DELTA) <= 1.0


def test_a_study_killed_and_reopened_counts_every_started_trial(store, ledger):
    for job in ("t0", "t1"):
        ledger.charge(steps(10), attempt=begin(ledger, job), first_step=0)
    reopened = join_ledger(store, **BUDGET)
    reopened.charge(steps(7), attempt=begin(reopened, "t1"), first_step=4)
    begin(reopened, "t2")
    view = read_ledger(store).of_study("s")
    assert [c.num_steps for c in view.charges] == [10, 10, 7]
    assert len(view.attempts) == 4
    assert list(read_ledger(store).studies) == ["s"]
    assert epsilon_pld(view.charges, DELTA) == read_ledger(store).spent_epsilon()


def test_a_trial_whose_plan_exceeds_what_the_study_has_left_is_refused_with_nothing_written(store, ledger):
    ledger.charge(steps(most(1.0) - 5), attempt=begin(ledger, "t0"), first_step=0)
    before = store.list_files()
    with pytest.raises(BudgetExceededError, match="over the target of study 's'"):
        ledger.begin_attempt(STUDY, job="t1", planned=[steps(6)])
    assert store.list_files() == before
    assert ledger.begin_attempt(STUDY, job="t1", planned=[steps(5)]) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"study_target_epsilon": 2.0},
        {"study_target_delta": 1e-6},
        {"study_target_epsilon": None},
        {"study_target_epsilon": float("inf")},
        {"study": ""},
    ],
)
def test_a_study_cannot_raise_or_leave_out_its_limit(store, ledger, change):
    begin(ledger, "t0")
    before = store.list_files()
    with pytest.raises((PrivacyError, SpecError)):
        ledger.begin_attempt({**STUDY, **change}, job="t1", planned=[])
    assert store.list_files() == before


def test_a_jobs_scope_is_its_study_whatever_else_is_said_of_it(ledger):
    """A trial is chosen in the light of the trials before it, so what it may state is what all of them cost."""
    for job, num_steps in (("t0", 10), ("t1", 20)):
        ledger.charge(steps(num_steps), attempt=begin(ledger, job), first_step=0)
    outside = ledger.begin_attempt({}, job="other")
    ledger.charge(steps(40), attempt=outside, first_step=0)
    for job in ("t0", "t1"):
        scope = ledger.scope_of(job)
        assert [c.num_steps for c in scope.charges] == [10, 20]
        assert (scope.own_target, scope.jobs, scope.name) == ((1.0, DELTA), ("t0", "t1"), "study 's'")
    scope = ledger.scope_of("other")
    assert ([c.num_steps for c in scope.charges], scope.own_target) == ([40], None)
    assert [c.num_steps for c in scope.dataset.charges] == [10, 20, 40]


def test_a_job_that_joins_a_study_late_brings_its_earlier_attempts_along(ledger):
    whole = most(1.0)
    ledger.charge(steps(5), attempt=ledger.begin_attempt({}, job="t0"), first_step=0)
    ledger.charge(steps(10), attempt=begin(ledger, "t1"), first_step=0)
    late = begin(ledger, "t0")
    assert ledger.affordable_steps(steps(1), 10_000, attempt=late) == whole - 15
    assert [c.num_steps for c in ledger.scope_of("t1").charges] == [5, 10]


def test_a_job_of_two_studies_is_counted_with_both(ledger):
    other = {**STUDY, "study": "s2", "study_target_epsilon": 2.0}
    for job, terms, num_steps in (("a", {}, 1), ("b", other, 2), ("both", {}, 4), ("both", other, 8)):
        ledger.charge(steps(num_steps), attempt=begin(ledger, job, **terms), first_step=0)
    scope = ledger.scope_of("both")
    assert sum(c.num_steps for c in scope.charges) == 15
    assert (scope.name, scope.own_target) == ("study 's' and study 's2'", (2.0, DELTA))


def test_attempts_that_an_earlier_version_counted_otherwise_are_refused(store, ledger):
    before = store.list_files()
    with pytest.raises(PrivacyError, match="inherits charges of another job"):
        ledger.begin_attempt({"inherits": {"job": "donor", "entry": "0" * 64}}, job="clone")
    assert store.list_files() == before


def best_run(delta: float) -> BestRunCharge:
    return BestRunCharge(
        charges=(steps(100),), num_runs="logarithmic", mean_runs=5, delta=delta, purpose="the best of the trials"
    )


def test_a_bounded_charge_is_paid_for_once_and_read_back(store, ledger):
    paid = ledger.charge(SUBSET, attempt=begin(ledger, "tuning"))
    assert PaidSteps.from_dict(json.loads(json.dumps(paid.to_dict()))) == paid
    assert read_ledger(store).charges == (SUBSET,)
    assert ledger.spent_epsilon() == pytest.approx(SUBSET.bound[0], abs=1e-3)
    with pytest.raises(BudgetExceededError, match=r"tuning on a subset would bring .* the target of study"):
        ledger.charge(SUBSET, attempt=1)
    with pytest.raises(PrivacyError, match="first_step"):
        ledger.charge(replace(SUBSET, epsilon=0.1), attempt=1, first_step=0)
    assert read_ledger(store).charges == (SUBSET,)


@pytest.fixture
def mixed(store, ledger):
    """Steps and both kinds of bounds, in a study."""
    attempt = ledger.begin_attempt({**STUDY, "study_target_epsilon": 2.9}, job="tuning")
    for charge, first in ((SUBSET, None), (best_run(1e-6), None), (steps(30), 0)):
        ledger.charge(charge, attempt=attempt, first_step=first)
    return ledger


@pytest.mark.parametrize("view", [lambda ledger: ledger.of_study("s"), lambda ledger: ledger.of_job("tuning")])
def test_the_statement_says_plainly_how_a_bound_came_about(mixed, view):
    plan = make_plan(is_private=True, target_epsilon=2.9, target_delta=DELTA)
    stated = build_statement(plan, view(mixed))
    assert json.loads(json.dumps(stated, allow_nan=False)) == stated
    assert stated["epsilon"] == epsilon_pld([SUBSET, best_run(1e-6), steps(30)], DELTA)
    words = " ".join(stated["sentences"])
    for part in (
        "secret number of runs (logarithmic law, mean 5)",
        "secret Poisson subset of rate 0.1",
        "RDP left out",
    ):
        assert part in words
    assert "No second accountant can check them" in words
    assert stated["accountants"]["rdp"] is None
    assert stated["accountants"]["without_bounds"]["rdp"] >= stated["accountants"]["without_bounds"]["pld"]
    assert json.loads(checkpoint_statement_line(plan, view(mixed)))["bounds"] == stated["bounds"]


def test_show_lists_bounds_and_studies(store, mixed):
    shown = CliRunner().invoke(main, ["ledger", "show", store.uri])
    assert shown.exit_code == 0, shown.output
    epsilon, delta = SUBSET.bound
    assert f"epsilon {epsilon:.4f} at delta {delta:g}" in shown.output
    assert shown.output.count("poisson_subset") == 1
    assert "of 2.9 at delta 1e-05, 1 attempts" in shown.output
    plain = json.loads(CliRunner().invoke(main, ["ledger", "show", store.uri, "--json"]).output)
    assert plain["studies"]["s"]["spent_epsilon"] == mixed.spent_epsilon()
    assert plain["charges"][0] == SUBSET.to_dict()


def test_verify_says_what_each_accountant_could_count(store, mixed):
    done = CliRunner().invoke(main, ["ledger", "verify", store.uri])
    assert done.exit_code == 0, done.output
    assert "RDP not available: a charge is known by its bound only" in done.output
    plain = json.loads(CliRunner().invoke(main, ["ledger", "verify", store.uri, "--json"]).output)
    assert (plain["verified"], plain["rdp"], plain["prv"]) == (True, None, None)
    assert plain["without_bounds"]["prv"] > 0


def test_the_watch_shows_what_was_spent(store, mixed):
    class Gauges(dict):
        def add(self, *args, **kwargs) -> None:
            assert args[1:] == (0,), "a failure was counted"

        def set(self, name, value) -> None:
            self[name] = value

    gauges = Gauges()
    LedgerWatch(store, gauges).look()
    assert gauges[catalog.SPENT_EPSILON] == mixed.spent_epsilon()
