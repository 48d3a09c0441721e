import ast

import pytest

from rapid_dist.errors import SpecError
from rapid_dist.privacy import calibration
from rapid_dist.privacy.charges import Charge, merge_charges, training_charge
from tests.contract.sources import FILES, dotted, name_of, tree_of
from tests.training.helpers import make_plan


def make_charge(**changes) -> Charge:
    values = {
        "mechanism": "poisson_gaussian",
        "noise_multiplier": 1.5,
        "sample_rate": 0.1,
        "num_steps": 10,
        "purpose": "training",
    }
    return Charge(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"mechanism": "laplace"},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": float("nan")},
        {"noise_multiplier": float("inf")},
        {"noise_multiplier": True},
        {"noise_multiplier": "1"},
        {"sample_rate": 0.0},
        {"sample_rate": 1.0001},
        {"sample_rate": float("nan")},
        {"mechanism": "gaussian", "sample_rate": 0.5},
        {"num_steps": 0},
        {"num_steps": 10**6 + 1},
        {"num_steps": 1.0},
        {"num_steps": True},
        {"purpose": ""},
    ],
)
def test_impossible_charges_cannot_be_made(changes):
    with pytest.raises(SpecError):
        make_charge(**changes)


def test_a_forgotten_sample_rate_claims_no_amplification():
    assert Charge(mechanism="gaussian", noise_multiplier=1, num_steps=1, purpose="votes").sample_rate == 1.0


def test_from_dict_gives_back_what_to_dict_wrote():
    charge = make_charge(noise_multiplier=2)
    assert Charge.from_dict(charge.to_dict()) == charge
    assert isinstance(charge.noise_multiplier, float)


@pytest.mark.parametrize(
    "change",
    [lambda d: d.update(count=3), lambda d: d.pop("sample_rate"), lambda d: d.update(mechanism="exponential")],
)
def test_what_is_not_understood_is_refused(change):
    values = make_charge().to_dict()
    change(values)
    with pytest.raises(SpecError):
        Charge.from_dict(values)


def test_a_charge_that_is_not_a_mapping_is_refused():
    with pytest.raises(SpecError):
        Charge.from_dict([])


def test_merging_adds_steps_of_equal_mechanisms_only():
    merged = merge_charges([make_charge(), make_charge(num_steps=5, purpose="more"), make_charge(noise_multiplier=1.6)])
    assert [(c.noise_multiplier, c.num_steps) for c in merged] == [(1.5, 15), (1.6, 10)]
    assert merged[0].purpose == "more, training"


def test_merging_does_not_depend_on_order():
    charges = [make_charge(noise_multiplier=s, num_steps=n) for s, n in ((2, 1), (1, 2), (2, 3))]
    assert merge_charges(charges) == merge_charges(charges[::-1])


def test_only_charges_can_be_merged():
    with pytest.raises(SpecError):
        merge_charges([make_charge().to_dict()])


def test_the_mechanism_of_a_training_step_is_written_down_in_one_place():
    """So what is calibrated, planned, printed and charged cannot drift apart."""
    makers = set()
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "Charge":
                kinds = {c.value for k in node.keywords for c in ast.walk(k.value) if isinstance(c, ast.Constant)}
                makers |= {name_of(path)} if "poisson_gaussian" in kinds else set()
    assert makers == {"privacy/charges.py"}


@pytest.mark.parametrize("sample_rate", [0.3, 1.0])
def test_what_is_calibrated_is_what_the_plan_charges_at_every_rate(monkeypatch, sample_rate):
    seen = []

    def noted(charges, **_):
        seen.extend(charges := tuple(charges))
        return 2.0 / charges[0].noise_multiplier if charges else 0.0

    monkeypatch.setattr(calibration, "epsilon_pld", noted)
    monkeypatch.setattr(calibration, "epsilon_rdp", noted)
    calibration.calibrate_noise_multiplier(target_epsilon=1.0, delta=1e-5, sample_rate=sample_rate, num_steps=7)
    plan = make_plan(sample_rate=sample_rate)
    assert {(c.mechanism, c.purpose) for c in seen} == {(plan.training_charge(7).mechanism, "training")}
    assert plan.training_charge(7) == training_charge(
        sample_rate=sample_rate, noise_multiplier=plan.noise_multiplier, num_steps=7
    )
