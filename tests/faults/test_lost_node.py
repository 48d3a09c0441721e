"""One of two local nodes is lost in the middle of training: the run goes on with what is left."""

from __future__ import annotations

import pytest

from cluster.local import start_cluster
from tests.faults.harness import ROOT

pytestmark = pytest.mark.faults


def test_a_lost_node_costs_an_attempt_and_nothing_else(faulty_run):
    run = faulty_run(
        training={"steps": 200},
        runtime={"num_workers": 1, "min_workers": 1, "max_workers": 2, "num_cpus": None, "max_failures": 5},
    )
    with start_cluster(2, cpus_per_node=1, env={"PYTHONPATH": str(ROOT)}) as cluster:
        run.environment = cluster.environment()
        run.start()
        run.wait_for_charges(4)
        spent = run.spent()
        cluster.workers[1].kill()
        code, said = run.finish()
    assert code == 0, said
    assert run.check_finished(at_least=spent).facts["attempts"] >= 2
