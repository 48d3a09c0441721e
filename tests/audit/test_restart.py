"""A run with one failure: paid for, nothing taken back, nothing else charged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rapid_dist.audit.checks import Recording, restart_checks, violations
from tests.training.helpers import make_plan

PLAN = make_plan()


def seen(**public) -> Recording:
    """Blocks of 4 steps; a failure at step 6 of 8, so 6 releases, then 4 more from the checkpoint at step 4."""
    charge = PLAN.training_charge(4).to_dict()
    facts = {"charges": [charge] * 3, "charged_steps": 12, "charged_steps_at_failure": 8, **public}
    return Recording(
        outcome="completed",
        call_digests=("a", "a"),
        clipped_sums=np.zeros((10, 3)),
        released=np.zeros((10, 3)),
        attempts=np.repeat([1, 2], [6, 4]),
        public=facts,
    )


def failed(recording: Recording) -> str:
    return "\n".join(check.words for check in violations(restart_checks(recording, PLAN)))


def test_a_restart_that_pays_for_everything_passes():
    assert failed(seen()) == ""


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        (seen(charged_steps=8), "nothing in the ledger pays for: 2"),
        (seen(charged_steps=10), "taken back: 2"),
        (seen(charges=[{**PLAN.training_charge(4).to_dict(), "sample_rate": 0.1}]), "another mechanism"),
        (replace(seen(), outcome="stopped"), "did not complete"),
        (replace(seen(), attempts=np.ones(10, dtype=np.int64)), "attempts that released something: 1"),
        (replace(seen(), is_same_on_all_workers=False), "different releases"),
    ],
)
def test_what_went_wrong_is_named(recording, words):
    assert words in failed(recording)
