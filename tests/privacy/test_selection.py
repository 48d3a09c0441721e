import pytest

from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld, epsilon_rdp
from rapid_dist.privacy.charges import Charge, epsilon_of_best_run

DELTA = 1e-5


def run_charges(sigma: float) -> list[Charge]:
    return [
        Charge(
            mechanism="poisson_gaussian",
            noise_multiplier=sigma,
            sample_rate=2048 / 60000,
            num_steps=5860,
            purpose="training",
        )
    ]


@pytest.mark.parametrize(
    ("sigma", "mean_runs", "num_runs", "expected"),
    [
        (9.87, 10, "logarithmic", 1.902),
        (9.87, 10, "geometric", 2.293),
        (9.87, 10, "poisson", 2.510),
        (9.87, 50, "geometric", 2.728),
        (1.49, 10, "logarithmic", 15.1),
    ],
)
def test_known_values_of_golden_runs(sigma, mean_runs, num_runs, expected):
    found = epsilon_of_best_run(run_charges(sigma), DELTA, mean_runs=mean_runs, num_runs=num_runs)
    assert found == pytest.approx(expected, abs=0.05 if expected > 10 else 6e-4)


@pytest.mark.parametrize("num_runs", ["logarithmic", "geometric", "poisson"])
def test_choosing_costs_more_than_one_run_and_more_with_more_runs(num_runs):
    one = epsilon_rdp(run_charges(9.87), DELTA)
    few, many = (epsilon_of_best_run(run_charges(9.87), DELTA, mean_runs=m, num_runs=num_runs) for m in (5, 50))
    assert one < few < many


def test_choosing_among_many_is_cheaper_than_releasing_all():
    every_run = [Charge.from_dict({**run_charges(9.87)[0].to_dict(), "num_steps": 20 * 5860})]
    chosen = epsilon_of_best_run(run_charges(9.87), DELTA, mean_runs=20, num_runs="geometric")
    assert chosen < epsilon_pld(every_run, DELTA)


@pytest.mark.parametrize(
    "change",
    [
        {"num_runs": "fixed"},
        {"mean_runs": 1.0},
        {"mean_runs": float("inf")},
        {"num_runs": "poisson", "mean_runs": 0.0},
        {"delta": 0.0},
    ],
)
def test_laws_that_cannot_be_are_refused(change):
    values = {"delta": DELTA, "mean_runs": 10.0, "num_runs": "geometric", **change}
    with pytest.raises(SpecError):
        epsilon_of_best_run(run_charges(9.87), **values)
