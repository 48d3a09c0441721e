"""SIGKILL to every part of a private training run: it completes, its ledger holds, its model is that of a legal run."""

from __future__ import annotations

import pytest

from tests.faults.harness import LEDGER_ACTOR, WORKER, FaultyRun

pytestmark = pytest.mark.faults


@pytest.fixture
def run(faulty_run) -> FaultyRun:
    return faulty_run()


def test_an_undisturbed_run_is_its_own_replay(run):
    run.start()
    code, said = run.finish()
    assert code == 0, said
    assert run.check_finished().facts["attempts"] == 1


@pytest.mark.parametrize("rank", [0, -1])
def test_a_killed_worker_costs_an_attempt_and_nothing_else(run, rank):
    run.start()
    run.wait_for_charges(3)
    spent = run.spent()
    assert run.kill_one(WORKER, rank)
    code, said = run.finish()
    assert code == 0, said
    assert run.check_finished(at_least=spent).facts["attempts"] == 2


def test_a_killed_ledger_actor_comes_back_and_spends_nothing_twice(run):
    run.start()
    for charges in (2, 5, 8):
        run.wait_for_charges(charges)
        run.wait_until(lambda: run.kill_one(LEDGER_ACTOR))
    code, said = run.finish()
    assert code == 0, said
    facts = run.check_finished().facts
    assert facts["attempts"] == 1
    assert sum(c["num_steps"] for c in facts["statement"]["mechanisms"]) == 60 + 1  # the steps and the votes


def test_a_killed_driver_takes_everything_along_and_the_same_line_goes_on_with_other_workers(run):
    run.start()
    run.wait_for_charges(4)
    spent = run.spent()
    run.kill_driver()
    assert run.spent() >= spent
    run.start("runtime.num_workers=1")
    code, said = run.finish()
    assert code == 0, said
    assert run.check_finished(at_least=spent).facts["attempts"] == 2


def test_without_spare_steps_a_restart_ends_early_rather_than_over_the_target(faulty_run):
    run = faulty_run(privacy={"spare_steps": 0})
    run.start()
    run.wait_for_charges(4)
    run.kill_driver()
    spent = run.spent()
    run.start()
    code, said = run.finish()
    assert code == 0, said
    assert "the next step would exceed epsilon" in said
    assert spent <= run.spent() <= run.spec.privacy.target_epsilon
