"""What (epsilon, delta) lets an attacker do: the odds printed instead of adjectives."""

from __future__ import annotations

import math

from rapid_dist.errors import SpecError

FALSE_ALARM_RATES = {"tpr_at_fpr_1_percent": 0.01, "tpr_at_fpr_0_1_percent": 0.001}


def odds_table(epsilon: float, delta: float) -> dict[str, float | None]:
    """Returns the best any membership guess can do against an (epsilon, delta) private output.

    best_guess_accuracy = (e^eps + delta) / (1 + e^eps) at even odds (Kairouz et al. 2015);
    true positive rate at a false positive rate f <= min(e^eps f + delta, 1 - e^-eps (1 - delta - f)).
    odds_factor = e^eps, None where it overflows. All bounds are worst case over data and attackers.
    Raises SpecError for epsilon < 0 or delta outside [0, 1].
    """
    if not epsilon >= 0 or not 0 <= delta <= 1:
        raise SpecError(f"got epsilon={epsilon}, delta={delta}; expected epsilon >= 0 and delta in [0, 1]")
    shrink = math.exp(-epsilon)
    growth = math.exp(epsilon) if epsilon < 700 else math.inf
    table: dict[str, float | None] = {
        "odds_factor": growth if math.isfinite(growth) else None,
        "best_guess_accuracy": min(1.0, (1 + delta * shrink) / (1 + shrink)),
    }
    for name, rate in FALSE_ALARM_RATES.items():
        table[name] = min(1.0, growth * rate + delta, 1 - shrink * (1 - delta - rate))
    return table
