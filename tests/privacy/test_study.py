"""The noise of a study for each way of accounting, against dp_accounting, and the laws of the number of runs."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from scipy.stats import geom, logser, poisson

from rapid_dist.errors import SpecError
from rapid_dist.privacy.calibration import calibrate_best_run, compose_noise_multiplier, draw_num_runs
from rapid_dist.privacy.charges import Charge, SubsetCharge

DELTA = 1e-5
SHAPES = {"logarithmic": 0, "geometric": 1, "poisson": math.inf}
VOTES = Charge(mechanism="gaussian", noise_multiplier=20.0, num_steps=1, purpose="votes")


def steps_event(rate: float, sigma: float, num_steps: int) -> dp_accounting.DpEvent:
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    return dp_accounting.SelfComposedDpEvent(step, num_steps)


def best_run_oracle(events: list[dp_accounting.DpEvent], mean_runs: float, num_runs: str) -> float:
    event = dp_accounting.dp_event.RepeatAndSelectDpEvent(
        dp_accounting.ComposedDpEvent(events), mean_runs, SHAPES[num_runs]
    )
    return rdp.RdpAccountant().compose(event).get_epsilon(DELTA)


@pytest.mark.parametrize(
    ("target_epsilon", "rate", "num_steps", "mean_runs", "num_runs", "others"),
    [
        (2.0, 2048 / 60000, 5860, 10, "logarithmic", ()),
        (2.0, 2048 / 60000, 5860, 10, "geometric", ()),
        (3.0, 0.02, 1000, 5, "poisson", ()),
        (8.0, 0.05, 300, 20, "geometric", (VOTES,)),
        (1.0, 0.01, 400, 3, "logarithmic", (VOTES,)),
        (10.0, 0.1, 100, 50, "logarithmic", ()),
    ],
)
def test_the_best_of_the_runs_fits_the_target_and_little_less_noise_does_not(
    target_epsilon, rate, num_steps, mean_runs, num_runs, others
):
    found = calibrate_best_run(
        target_epsilon=target_epsilon,
        delta=DELTA,
        sample_rate=rate,
        num_steps=num_steps,
        other_charges=others,
        mean_runs=mean_runs,
        num_runs=num_runs,
    )
    extra = [dp_accounting.GaussianDpEvent(c.noise_multiplier) for c in others]
    at, less = (
        best_run_oracle([steps_event(rate, sigma, num_steps), *extra], mean_runs, num_runs)
        for sigma in (found, found * 0.998 - 1e-4)
    )
    assert at <= target_epsilon < less
    assert at == pytest.approx(target_epsilon, rel=5e-3)
    assert round(found, 4) == found


def test_a_target_that_choosing_alone_exceeds_is_refused():
    with pytest.raises(SpecError, match="raise the target"):
        calibrate_best_run(
            target_epsilon=0.5,
            delta=DELTA,
            sample_rate=0.01,
            num_steps=10,
            other_charges=(Charge(mechanism="gaussian", noise_multiplier=5.0, num_steps=1, purpose="votes"),),
            mean_runs=10,
            num_runs="geometric",
        )


@pytest.mark.parametrize("change", [{"target_epsilon": math.inf}, {"tolerance": 0}, {"num_runs": "fixed"}])
def test_settings_out_of_range_are_refused(change):
    values = {"target_epsilon": 2.0, "delta": DELTA, "sample_rate": 0.1, "num_steps": 5, "mean_runs": 5.0}
    with pytest.raises(SpecError):
        calibrate_best_run(**{**values, "num_runs": "geometric", **change})


def compose_study(target_epsilon: float, shapes: list[tuple[float, int]], per_trial: tuple[Charge, ...]):
    """The noise of each trial in turn, and everything charged."""
    charges, sigmas = [], []
    for index, (rate, num_steps) in enumerate(shapes):
        sigma = compose_noise_multiplier(
            target_epsilon=target_epsilon,
            delta=DELTA,
            already=charges,
            sample_rate=rate,
            num_steps=num_steps,
            per_trial=per_trial,
            trials_left=len(shapes) - index,
        )
        training = Charge(
            mechanism="poisson_gaussian",
            noise_multiplier=sigma,
            sample_rate=rate,
            num_steps=num_steps,
            purpose="training",
        )
        charges += [*per_trial, training]
        sigmas.append(sigma)
    return sigmas, charges


@pytest.mark.parametrize(
    ("target_epsilon", "shapes", "per_trial"),
    [
        (1.0, [(0.05, 400)] * 2, ()),
        (1.0, [(0.02, 1000)] * 2, (VOTES,)),
        (0.8, [(0.05, 200), (0.02, 800)], ()),
        (2.0, [(0.03, 2000)], (VOTES,)),
        (0.6, [(0.1, 200)] * 2, ()),
        pytest.param(8.0, [(0.1, 20), (0.05, 40), (0.02, 60)], (), marks=pytest.mark.slow),
    ],
)
def test_all_trials_together_cost_the_target_and_no_more(target_epsilon, shapes, per_trial):
    sigmas, _ = compose_study(target_epsilon, shapes, per_trial)
    accountant = pld.PLDAccountant(value_discretization_interval=1e-4)
    for sigma, (rate, num_steps) in zip(sigmas, shapes, strict=True):
        accountant.compose(steps_event(rate, sigma, num_steps))
        for charge in per_trial:
            accountant.compose(dp_accounting.GaussianDpEvent(charge.noise_multiplier))
    assert accountant.get_epsilon(DELTA) <= target_epsilon + 1e-9
    assert accountant.get_epsilon(DELTA) == pytest.approx(target_epsilon, rel=5e-3)


def test_trials_of_one_shape_get_about_the_same_noise():
    sigmas, _ = compose_study(1.0, [(0.05, 400)] * 2, ())
    assert sigmas[0] == pytest.approx(sigmas[1], rel=5e-3)


def test_the_final_run_beside_a_subset_gets_the_rest():
    subset = SubsetCharge(subset_rate=0.1, epsilon=2.0, delta=1e-5, purpose="tuning")
    values = {"target_epsilon": 2.0, "delta": DELTA, "sample_rate": 0.05, "num_steps": 1000, "trials_left": 1}
    beside, alone = (compose_noise_multiplier(already=already, **values) for already in ((subset,), ()))
    assert beside > alone


def test_no_trials_left_is_refused():
    values = {"target_epsilon": 2.0, "delta": DELTA, "sample_rate": 0.05, "num_steps": 50, "already": ()}
    with pytest.raises(SpecError, match="trials_left"):
        compose_noise_multiplier(trials_left=0, **values)


def law_of(num_runs: str, mean: float):
    """Scipy's law of the mean, and for the logarithmic one its parameter by a bisection of its own."""
    if num_runs == "geometric":
        return geom(1 / mean)
    if num_runs == "poisson":
        return poisson(mean)
    low, high = 1e-9, 1 - 1e-12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if -middle / ((1 - middle) * math.log1p(-middle)) < mean else (low, middle)
    return logser(low)


@pytest.mark.parametrize("num_runs", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 10.0])
def test_the_number_of_runs_inverts_the_distribution_function_exactly(num_runs, mean):
    """k comes out for just the uniforms in [P(K < k), P(K <= k)), so it has probability P(K = k)."""
    law = law_of(num_runs, mean)
    assert law.mean() == pytest.approx(mean, rel=1e-6)
    first = 0 if num_runs == "poisson" else 1
    below = 0.0
    for k in range(first, 15):
        upto = below + float(law.pmf(k))
        for uniform in (below + 1e-9, upto - 1e-9):
            if below <= uniform < min(upto, 1.0) and upto - below > 1e-8:
                assert draw_num_runs(num_runs, mean, uniform) == k
        below = upto
    assert draw_num_runs(num_runs, mean, 0.0) == first
    assert draw_num_runs(num_runs, mean, 1 - 2**-53) >= law.ppf(1 - 1e-9)


@pytest.mark.parametrize("num_runs", SHAPES)
def test_the_mean_is_the_one_that_is_charged_for(num_runs):
    """The mean of the inverse over an even grid of uniforms, up to the share of the last grid cell."""
    points = 20_000
    mean = sum(draw_num_runs(num_runs, 4.0, (i + 0.5) / points) for i in range(points)) / points
    assert mean == pytest.approx(4.0, abs=0.01)


def test_the_system_draws_and_differs():
    assert len({draw_num_runs("geometric", 50.0) for _ in range(30)}) > 1


@pytest.mark.parametrize(
    ("num_runs", "mean", "uniform"),
    [("fixed", 5, 0.5), ("geometric", 1.0, 0.5), ("poisson", 0.5, 0.5), ("geometric", 1e4, 0.5), ("poisson", 5, 1.0)],
)
def test_laws_that_cannot_be_are_refused(num_runs, mean, uniform):
    with pytest.raises(SpecError):
        draw_num_runs(num_runs, mean, uniform)
