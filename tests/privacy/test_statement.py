import json
import math

import pytest

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy import statement
from rapid_dist.privacy.accounting import EpsilonResult, epsilon_pld, epsilon_without_amplification
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import NOT_PRIVATE, Ledger, LedgerView, open_ledger, read_ledger
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.privacy.statement import (
    SEVERITIES,
    build_statement,
    checkpoint_statement_line,
    known_limits,
    not_private_reasons,
    statement_line,
)
from rapid_dist.storage.store import Store
from tests.training.helpers import make_plan, open_tiny_ledger

PLAN = make_plan(is_private=True, unit="one scan", target_epsilon=20.0, votes_noise_multiplier=5.0)

STUDY = {"study": "s", "study_target_epsilon": 30.0, "study_target_delta": 1e-3}


@pytest.fixture
def store(tmp_path) -> Store:
    """Two attempts, the first of which died after votes and four steps."""
    store = Store(tmp_path / "ledger")
    ledger = open_tiny_ledger(store, PLAN)
    first = ledger.begin_attempt(PLAN.to_plain())
    ledger.charge(PLAN.votes_charge(), attempt=first)
    ledger.charge(PLAN.training_charge(4), attempt=first, first_step=0)
    second = ledger.begin_attempt(PLAN.to_plain())
    ledger.charge(PLAN.training_charge(6), attempt=second, first_step=2)
    return store


def test_the_stated_epsilon_is_that_of_every_charge_of_every_attempt(store):
    ledger = read_ledger(store)
    stated = build_statement(PLAN, ledger)
    assert stated["epsilon"] == ledger.spent_epsilon()
    assert stated["epsilon"] == epsilon_pld([PLAN.votes_charge(), PLAN.training_charge(10)], PLAN.target_delta)
    assert stated["epsilon"] > PLAN.planned_epsilon().pld
    assert stated["mechanisms"] == [c.to_dict() for c in ledger.charges]
    assert len(stated["mechanisms"]) == 3
    assert stated["ledger_head"] == ledger.head


def test_the_words_give_epsilon_delta_and_unit(store):
    stated = build_statement(PLAN, read_ledger(store))
    shown = float(stated["words"].partition("(")[2].partition(",")[0])
    assert stated["epsilon"] <= shown < stated["epsilon"] * 1.001
    assert f"({shown:g}, 0.001)-differentially private" in stated["words"]
    assert "adding or removing one scan" in stated["words"]
    assert "NOT PRIVATE" not in stated["words"]
    assert stated["not_private_reasons"] == []


def test_the_statement_says_what_it_rests_on_and_survives_json(store):
    stated = build_statement(PLAN, read_ledger(store))
    assert json.loads(json.dumps(stated)) == stated
    assert (stated["delta"], stated["target_epsilon"], stated["unit"]) == (1e-3, 20.0, "one scan")
    assert stated["neighboring_relation"] == "add_or_remove_one"
    assert stated["accountants"]["pld"] == stated["epsilon"]
    assert stated["accountants"]["rdp"] >= stated["epsilon"]
    assert set(stated["accountants"]["versions"]) == {"dp-accounting", "opacus"}
    assert stated["assumptions"]
    assert stated["outside_guarantee"]


def test_a_debugging_key_is_stamped_not_private(store):
    debug = make_plan(**{**PLAN.to_plain(), "is_private": False})
    stated = build_statement(debug, read_ledger(store))
    assert stated["words"].startswith("NOT PRIVATE")
    assert "differentially private" not in stated["words"]
    assert stated["not_private_reasons"] == list(not_private_reasons(debug)) != []
    assert (stated["hardening_level"], stated["sentences"]) == ("none", [])
    assert stated["limits"][0]["severity"] == "Critical"
    assert "NOT PRIVATE" in statement_line(stated)
    assert not_private_reasons(PLAN) == ()


@pytest.mark.parametrize("make", [build_statement, checkpoint_statement_line])
def test_nothing_is_stated_of_what_was_never_charged(tmp_path, make):
    """Epsilon 0 would be a promise that nothing backs: a charge is missing, or nothing ran."""
    ledger = open_tiny_ledger(Store(tmp_path / "empty"), PLAN)
    ledger.charge(PLAN.votes_charge(), attempt=ledger.begin_attempt(PLAN.to_plain(), job="paid"))
    ledger.begin_attempt(PLAN.to_plain(), job="unpaid")
    ledger.begin_attempt({**PLAN.to_plain(), **STUDY}, job="trial")
    for scope in (ledger.scope_of("unpaid"), ledger.scope_of("trial"), ledger.scope_of("unknown")):
        with pytest.raises(PrivacyError, match=rf"no charge of {scope.name}.*restore the ledger, or use a new folder"):
            make(PLAN, scope)
    assert make(PLAN, ledger.scope_of("paid"))


def two_trials(store: Store) -> Ledger:
    """A study of two trials whose own targets are small, and a job outside of it."""
    ledger = open_ledger(store, target_epsilon=40.0, target_delta=1e-4)
    own = make_plan(is_private=True, target_epsilon=15.0)
    for job, terms, num_steps in (("s/t0", STUDY, 3), ("s/t1", STUDY, 4), ("other", {}, 8)):
        attempt = ledger.begin_attempt({**own.to_plain(), **terms}, job=job)
        ledger.charge(own.training_charge(num_steps), attempt=attempt, first_step=0)
    return ledger


def both_ways(plan: PrivacyPlan, scope: LedgerView) -> list[dict]:
    return [build_statement(plan, scope), json.loads(checkpoint_statement_line(plan, scope))]


def test_a_trial_states_what_its_study_has_cost_at_the_studys_target(tmp_path):
    """A trial is chosen by what earlier trials released: its own charges alone would state too little."""
    ledger = two_trials(Store(tmp_path / "ledger"))
    plan = make_plan(is_private=True, target_epsilon=15.0, target_delta=1e-2)
    whole = epsilon_pld([plan.training_charge(7)], STUDY["study_target_delta"])
    for stated in both_ways(plan, ledger.scope_of("s/t1")):
        assert whole <= stated["epsilon"] < whole + 1e-2
        assert (stated["target_epsilon"], stated["delta"]) == (30.0, 1e-3)
        assert (stated["counted"], stated["attempts"]) == ("study 's'", 2)
    assert "every attempt of study 's' (2 so far)" in " ".join(
        build_statement(plan, ledger.scope_of("s/t1"))["sentences"]
    )


def test_a_statement_tells_what_all_jobs_have_cost_the_dataset(tmp_path):
    """Whoever leaves privacy.study out of a spec reads the whole cost all the same."""
    ledger, plan = two_trials(Store(tmp_path / "ledger")), make_plan(is_private=True, target_epsilon=15.0)
    total = epsilon_pld([plan.training_charge(15)], 1e-4)
    for stated in both_ways(plan, ledger.scope_of("other")):
        told = stated["dataset"]
        assert total <= told["epsilon"] < total + 1e-2
        assert stated["epsilon"] < told["epsilon"]
        assert (told["delta"], told["target_epsilon"], told["jobs"]) == (1e-4, 40.0, 3)
    (sentence,) = [s for s in build_statement(plan, ledger.scope_of("other"))["sentences"] if "this dataset" in s]
    assert f"{total:.3f}"[:4] in sentence
    assert "at delta 0.0001, of a budget of 40." in sentence


def test_one_attempt_with_a_debugging_key_makes_all_that_is_counted_with_it_not_private(tmp_path):
    ledger = two_trials(Store(tmp_path / "ledger"))
    plan, debug = make_plan(is_private=True), make_plan(is_private=False)
    ledger.begin_attempt({**debug.to_plain(), **STUDY}, job="s/t1")
    for stated in both_ways(plan, ledger.scope_of("s/t0")):
        assert stated["words"].startswith("NOT PRIVATE: deterministic noise")
        assert stated["not_private_reasons"] == list(not_private_reasons(debug))
        assert (stated["hardening_level"], stated["dataset"]["epsilon"]) == ("none", None)
    outside = build_statement(plan, ledger.scope_of("other"))
    assert outside["not_private_reasons"] == []
    assert (outside["dataset"]["epsilon"], outside["dataset"]["not_private_reasons"]) == (
        None,
        list(not_private_reasons(debug)),
    )
    assert any("so no epsilon holds for all of them together" in sentence for sentence in outside["sentences"])


def test_an_attempt_may_say_why_its_statement_is_no_promise(tmp_path):
    ledger = open_tiny_ledger(Store(tmp_path / "ledger"), PLAN)
    attempt = ledger.begin_attempt({**PLAN.to_plain(), NOT_PRIVATE: "a trial that may not leave"}, job="t0")
    ledger.charge(PLAN.training_charge(2), attempt=attempt, first_step=0)
    for stated in both_ways(PLAN, ledger.scope_of("t0")):
        assert stated["words"] == "NOT PRIVATE: a trial that may not leave"
        assert (stated["hardening_level"], stated["dataset"]["epsilon"]) == ("floating_point_hardened", None)
    assert "differentially private" not in checkpoint_statement_line(PLAN, ledger.scope_of("t0"))


def test_the_statement_covers_a_charge_written_after_the_ledger_was_opened(store):
    """Another process may have charged since: the guarantee is about the folder, not about this object."""
    seen_earlier = read_ledger(store)
    writer = open_tiny_ledger(store, PLAN)
    writer.charge(PLAN.training_charge(3), attempt=2, first_step=100)
    stated = build_statement(PLAN, seen_earlier)
    assert stated["epsilon"] == epsilon_pld([PLAN.votes_charge(), PLAN.training_charge(13)], PLAN.target_delta)
    assert stated["ledger_head"] == writer.head


@pytest.mark.parametrize("doubt", [{"prv": 5.0}, {"prv": 0.1}, {"rdp": 0.1}])
def test_a_number_that_the_accountants_dispute_is_not_printed(store, monkeypatch, doubt):
    values = {"pld": 1.0, "prv": 1.01, "rdp": 1.2, "delta": 1e-3, **doubt}
    monkeypatch.setattr(statement, "compute_epsilon", lambda charges, **_: EpsilonResult(**values))
    with pytest.raises(PrivacyError, match="accountants disagree"):
        build_statement(PLAN, read_ledger(store))


def test_both_epsilons_are_stated_and_the_one_without_amplification_is_exact(store):
    """Ten steps at this rate are ceil(10 q) unsampled ones; with the votes, one Gaussian of the combined scale."""
    stated = build_statement(PLAN, read_ledger(store))
    squared = math.ceil(10 * PLAN.sample_rate) / PLAN.noise_multiplier**2 + 1 / PLAN.votes_noise_multiplier**2
    whole = Charge(mechanism="gaussian", noise_multiplier=squared**-0.5, num_steps=1, purpose="all")
    exact = epsilon_pld([whole], PLAN.target_delta)
    assert exact <= stated["epsilon_without_amplification"] <= exact + 1e-3
    words = " ".join(stated["sentences"])
    for number in (stated["epsilon"], stated["epsilon_without_amplification"]):
        assert f"{number:.6f}"[:3] in words
    assert stated["sentences"][0] == stated["words"]
    assert "every attempt of the dataset (2 so far)" in words


def test_sampling_with_certainty_has_no_amplification_to_lose():
    charges = [Charge(mechanism="poisson_gaussian", noise_multiplier=3, sample_rate=1, num_steps=20, purpose="t")]
    assert epsilon_without_amplification(charges, 1e-5) == pytest.approx(epsilon_pld(charges, 1e-5), abs=1e-3)
    assert epsilon_without_amplification([], 1e-5) == 0


def test_every_limit_has_a_severity_that_is_explained(store):
    stated = build_statement(PLAN, read_ledger(store))
    used = [limit["severity"] for limit in stated["limits"]]
    assert set(used) <= set(stated["severities"]) == set(SEVERITIES)
    assert "Critical" not in used
    assert used == sorted(used, key=list(SEVERITIES).index)
    assert any("float64" in limit["limit"] and limit["severity"] == "Theoretical" for limit in stated["limits"])
    assert "9.53674e-07" in known_limits(max_grad_norm=1.0, is_private=True)[0]["handling"]


def test_the_line_for_weights_is_one_short_line_that_says_the_same(store):
    stated = build_statement(PLAN, read_ledger(store))
    line = statement_line(stated)
    assert "\n" not in line
    assert len(line) < 2000
    read_back = json.loads(line)
    assert all(stated[name] == value for name, value in read_back.items())
    wanted = {"words", "epsilon", "delta", "neighboring_relation", "unit", "sampler", "accountants", "ledger_head"}
    assert wanted | {"hardening_level", "outside_guarantee", "not_private_reasons"} <= set(read_back)


def test_the_line_for_checkpoints_is_a_safe_and_close_bound_on_all_charges(store):
    exact = build_statement(PLAN, read_ledger(store))["epsilon"]
    ledger = open_tiny_ledger(store, PLAN)
    line = json.loads(checkpoint_statement_line(PLAN, ledger))
    assert exact <= line["epsilon"] <= exact + 1e-3
    assert (line["accountants"]["prv"], line["ledger_head"]) == (None, ledger.head)
    ledger.charge(PLAN.training_charge(3), attempt=2, first_step=100)
    assert json.loads(checkpoint_statement_line(PLAN, ledger))["epsilon"] > line["epsilon"]


def test_a_line_that_the_accountants_dispute_is_not_written(store, monkeypatch):
    values = {"pld": 1.0, "prv": None, "rdp": 0.5, "delta": 1e-3}
    monkeypatch.setattr(statement, "quick_epsilon", lambda charges, **_: EpsilonResult(**values))
    with pytest.raises(PrivacyError, match="accountants disagree"):
        checkpoint_statement_line(PLAN, read_ledger(store))
