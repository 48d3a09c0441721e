"""A study that is killed, or loses a node, goes on; what its trials spent before stays spent."""

from __future__ import annotations

import json

import pytest

from cluster.local import start_cluster
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.storage.store import Store
from rapid_dist.tune.trials import read_trials
from tests.faults.harness import ROOT, FaultyRun

pytestmark = pytest.mark.faults


class FaultyStudy(FaultyRun):
    """`rapid-dist tune` in mode compose: every trial is a job of the data set's ledger."""

    command = "tune"

    def jobs(self) -> tuple[str, ...]:
        return read_ledger(self.ledger).jobs if self.ledger.list_files() else ()

    def check_finished(self, num_trials: int) -> None:
        """Every trial that ever began is in the table and in the total, and each finished."""
        rows = read_trials(Store(self.out).read_bytes("trials.parquet"))
        ledger = read_ledger(self.ledger)
        statement = json.loads(Store(self.out).read_bytes("statement.json"))
        study = json.loads(Store(self.out).read_bytes("study.json"))["study"]
        assert [row.status for row in rows] == ["finished"] * num_trials
        assert sorted(ledger.jobs) == sorted(f"{study}/{row.trial}" for row in rows)
        assert sum(row.attempts for row in rows) == len(ledger.attempts)
        total = epsilon_pld(ledger.charges, statement["delta"])
        assert statement["epsilon"] == pytest.approx(total, abs=1e-9)
        assert total <= statement["target_epsilon"]


@pytest.fixture
def faulty_study(finished_run, tiny_sources, tmp_path):
    """The function of changed sections that makes a study; whatever is left of it is killed afterwards."""
    made = []

    def make(*, num_trials, **sections):
        tune = {
            "mode": "compose",
            "num_trials": num_trials,
            "num_scored_samples": 40,
            "classifier_epochs": 1,
            "max_failures": 5,
            "cpus_per_trial": 1,
            "space": {"training.learning_rate": {"log": [1.0e-4, 1.0e-2]}},
        }
        changed = {
            "privacy": {"spare_steps": 40},
            "training": {"steps": 40, "checkpoint_every": 4},
            "runtime": {"num_workers": 1},
        }
        for name, values in sections.items():
            changed[name] = {**changed.get(name, {}), **values}
        made.append(FaultyStudy(finished_run, tiny_sources, tmp_path, tune=tune, **changed))
        return made[-1]

    yield make
    for study in made:
        study.kill_all()


def test_a_killed_study_counts_every_trial_that_started(faulty_study):
    study = faulty_study(num_trials=3)
    study.start()
    study.wait_until(lambda: len(study.jobs()) >= 2)
    study.wait_until(lambda: len(read_ledger(study.ledger).charges_of(study.jobs()[1])) >= 2)
    study.kill_driver()
    before = read_ledger(study.ledger)
    study.start()
    code, said = study.finish()
    assert code == 0, said
    after = read_ledger(study.ledger, must_contain=before.head)
    assert after.charges[: len(before.charges)] == before.charges
    assert set(before.jobs) <= set(after.jobs)
    assert len(after.attempts_of(before.jobs[1])) >= 2
    study.check_finished(3)


def test_a_study_that_loses_a_node_completes(faulty_study):
    study = faulty_study(num_trials=3, runtime={"num_cpus": None})
    with start_cluster(2, cpus_per_node=1, env={"PYTHONPATH": str(ROOT)}) as cluster:
        study.environment = cluster.environment()
        study.start()
        study.wait_until(lambda: len(study.jobs()) >= 2)
        cluster.workers[1].kill()
        code, said = study.finish()
    assert code == 0, said
    study.check_finished(3)
