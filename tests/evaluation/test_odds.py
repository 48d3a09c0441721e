import math

import pytest

from rapid_dist.errors import SpecError
from rapid_dist.evaluation.report import odds_table

# epsilon: best guess, TPR at 1% FPR, TPR at 0.1% FPR, all in percent; delta 1e-5 (published table).
PUBLISHED = {
    0.5: (62.2, 1.7, 0.17),
    1: (73.1, 2.7, 0.27),
    2: (88.1, 7.4, 0.74),
    4: (98.2, 54.6, 5.5),
    8: (99.97, 99.97, 99.97),
    10: (99.995, 99.996, 99.995),
}


@pytest.mark.parametrize("epsilon", PUBLISHED)
def test_odds_equal_the_published_table(epsilon):
    odds = odds_table(epsilon, 1e-5)
    got = [100 * odds[k] for k in ("best_guess_accuracy", "tpr_at_fpr_1_percent", "tpr_at_fpr_0_1_percent")]
    for value, published in zip(got, PUBLISHED[epsilon], strict=True):
        # Not plain rounding: 1.6497% is published as 1.7%.
        assert value == pytest.approx(published, abs=0.51 * 10 ** -len(str(published).split(".")[1]))


def test_no_privacy_loss_leaves_blind_guessing():
    assert odds_table(0.0, 0.0) == {
        "odds_factor": 1.0,
        "best_guess_accuracy": 0.5,
        "tpr_at_fpr_1_percent": pytest.approx(0.01),
        "tpr_at_fpr_0_1_percent": pytest.approx(0.001),
    }


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0])
def test_best_guess_is_the_best_point_of_the_tradeoff_curve(epsilon):
    delta = 1e-3
    grid = [k / 20_000 for k in range(20_001)]
    best = max(
        (1 - f + min(math.exp(epsilon) * f + delta, 1 - math.exp(-epsilon) * (1 - delta - f), 1)) / 2 for f in grid
    )
    assert odds_table(epsilon, delta)["best_guess_accuracy"] == pytest.approx(best, abs=1e-4)


def test_odds_grow_with_epsilon_and_survive_huge_ones():
    tables = [odds_table(epsilon, 1e-6) for epsilon in (0, 0.1, 1, 3, 10, 50, 1000, math.inf)]
    for name in ("best_guess_accuracy", "tpr_at_fpr_1_percent", "tpr_at_fpr_0_1_percent"):
        values = [table[name] for table in tables]
        assert values == sorted(values)
        assert values[-1] == 1.0
    assert tables[-1]["odds_factor"] is None


@pytest.mark.parametrize(("epsilon", "delta"), [(-0.1, 0.0), (math.nan, 0.0), (1.0, -1e-9), (1.0, 1.1)])
def test_impossible_budgets_are_refused(epsilon, delta):
    with pytest.raises(SpecError, match="expected"):
        odds_table(epsilon, delta)
