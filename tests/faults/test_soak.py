"""Fifty random kills in one training run: workers, the ledger's actor, the command itself; the ledger is verified."""

from __future__ import annotations

import random

import pytest

from tests.faults.harness import LEDGER_ACTOR, WORKER

pytestmark = pytest.mark.soak

NUM_KILLS = 50
STEPS, BLOCK = 800, 4


def test_fifty_random_kills_end_with_a_verified_ledger(faulty_run):
    rng = random.Random(20)
    run = faulty_run(
        privacy={"spare_steps": 60 * BLOCK, "debug_fixed_key": 7},
        training={"steps": STEPS, "checkpoint_every": BLOCK},
        runtime={"num_workers": 2, "max_failures": 100},
    )
    # Few kills of the command, which costs a start of Ray; each kill comes after some progress since the last.
    plan = rng.sample([WORKER] * 22 + [LEDGER_ACTOR] * 24 + ["driver"] * 4, NUM_KILLS)
    spent, killed = [0.0], []
    run.start()
    for target in plan:
        files = len(run.ledger.list_files())
        run.wait_until(lambda files=files: len(run.ledger.list_files()) >= files + rng.randint(1, 3))
        if target == "driver":
            run.kill_driver()
            run.start()
        else:
            run.wait_until(lambda target=target: run.kill_one(target, rng.choice([0, -1])))
        killed.append(target)
        spent.append(run.spent())
    code, said = run.finish()
    assert code == 0, said
    assert len(killed) == NUM_KILLS
    assert spent == sorted(spent)
    facts = run.check_finished(at_least=spent[-1]).facts
    print(f"{NUM_KILLS} kills: {facts['attempts']} attempts, epsilon {facts['statement']['epsilon']:.4f}")
    assert facts["attempts"] > 20
