"""A run that failed once and went on: is everything it released paid for, and nothing taken back?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rapid_dist.privacy.audit.checks import Check
from rapid_dist.privacy.audit.replay import Recording

if TYPE_CHECKING:
    from rapid_dist.privacy.plan import PrivacyPlan

LAYER = "restart"


def restart_checks(seen: Recording, plan: PrivacyPlan) -> tuple[Check, ...]:
    """Checks of a run with one failure on its recording, whose public values hold what its ledger says.

    public: charges, plans, charged_steps, and charged_steps_at_failure as the ledger said when it failed.
    """
    public, last = seen.public, seen.attempts.max(initial=0)
    resumed = int((seen.attempts == last).sum())
    foreign = [
        charge
        for charge in public["charges"]
        if (charge["sample_rate"], charge["noise_multiplier"]) != (plan.sample_rate, plan.noise_multiplier)
    ]
    taken_back = public["charged_steps_at_failure"] + resumed - public["charged_steps"]
    found = {
        "the run did not complete": (float(seen.outcome != "completed"), 0),
        "workers hold different releases": (float(not seen.is_same_on_all_workers), 0),
        "releases that nothing in the ledger pays for": (len(seen.released) - public["charged_steps"], 0),
        "steps that the ledger has taken back": (taken_back, 0),
        "charges for another mechanism than the plan's": (len(foreign), 0),
    }
    attempts = Check(
        layer=LAYER, name="attempts that released something", found=len(np.unique(seen.attempts)), low=2, high=2
    )
    return (
        *(Check(layer=LAYER, name=name, found=float(value), high=high) for name, (value, high) in found.items()),
        attempts,
    )
