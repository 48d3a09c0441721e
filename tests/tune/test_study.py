"""What attempts of trials say of their study, in each mode; no Ray and no data."""

from __future__ import annotations

import pytest

from rapid_dist.privacy.ledger import attempt_reasons, open_ledger
from rapid_dist.storage.store import Store
from rapid_dist.tune.study import Study
from tests.tune.studies import make_study


def study_of(mode: str, folder) -> Study:
    return Study(make_study(f"tune.mode={mode}"), Store(folder))


def test_trials_that_compose_name_the_study_at_its_target(tmp_path):
    study = study_of("compose", tmp_path)
    assert study.trial_terms() == study.terms()
    assert (study.terms()["study"], study.terms()["study_target_epsilon"]) == (study.name, 4)


def test_trials_on_a_subset_name_the_study_at_the_budget_of_the_subset(tmp_path):
    """They are chosen by each other's scores as well, and the subset's ledger is all that counts them."""
    study = study_of("subset", tmp_path)
    terms = study.trial_terms()
    # delta_share 0.1 of the target's delta, over the rate 0.1
    assert terms == {"study": study.name, "study_target_epsilon": 2.0, "study_target_delta": pytest.approx(1e-4)}
    ledger = open_ledger(Store(tmp_path / "ledger"), target_epsilon=2.0, target_delta=terms["study_target_delta"])
    for job in ("t0", "t1"):
        ledger.begin_attempt(terms, job=f"{study.name}/{job}")
    assert len(ledger.scope_of(f"{study.name}/t1").attempts) == 2


@pytest.mark.parametrize(
    ("mode", "said"), [("repeat_select", "only the winner may leave"), ("public_proxy", "pretend")]
)
def test_trials_that_no_charge_of_their_own_pays_for_say_that_they_promise_nothing(tmp_path, mode, said):
    (reason,) = attempt_reasons(study_of(mode, tmp_path).trial_terms())
    assert said in reason
