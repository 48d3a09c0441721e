import pytest

from rapid_dist.errors import SpecError
from rapid_dist.privacy.charges import Charge, merge_charges


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
