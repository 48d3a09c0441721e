"""Made-up trials, drawn by seed."""

from __future__ import annotations

import random

from rapid_dist.tune.trials import TrialRow


def make_row(number: int = 0, **changes) -> TrialRow:
    settings = {"trial": f"t{number:04d}", "status": "finished", "proposal": {"schedule.split_step": 700}, "score": 0.5}
    return TrialRow(**{**settings, **changes})


def make_rows(count: int, seed: int = 0) -> list[TrialRow]:
    """Trials over six settings, about one in ten of them failed."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        split, steps, rate = rng.randrange(300, 901, 100), rng.choice([50, 100, 200, 400, 800]), rng.uniform(0.01, 0.1)
        failed = rng.random() < 0.1
        proposal = {
            "schedule.split_step": split,
            "schedule.query_step": split + rng.randrange(20, 90),
            "training.steps": steps,
            "privacy.sample_rate": rate,
            "training.learning_rate": 10 ** rng.uniform(-4, -2),
            "schedule.kind": rng.choice(["linear", "cosine"]),
        }
        rows.append(
            make_row(
                number,
                status="failed" if failed else rng.choice(["finished", "stopped"]),
                proposal=proposal,
                score=None if failed else rng.random(),
                rungs=() if failed else ((steps // 2, 0.25), (steps, 0.5)),
                step=steps,
                steps=steps,
                noise_multiplier=0.5 + 3 * rate * steps**0.5,
                sample_rate=rate,
                expected_batch_size=10_000 * rate,
                max_grad_norm=1.0,
                attempts=1,
                seconds=rng.uniform(20, 200),
                reason="out of memory" if failed else "",
            )
        )
    return rows
