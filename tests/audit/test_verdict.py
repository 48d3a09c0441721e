"""One answer from all layers, and its picture."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rapid_dist.audit.battery import AuditResult, CanaryResult, judge_canaries
from rapid_dist.audit.checks import Check
from rapid_dist.audit.plot import draw_plot


def canaries(*, signal: float = 1.0, sample_rate: float = 1.0, claimed: float = 4.377) -> CanaryResult:
    rng = np.random.default_rng(0)
    coins = rng.random(4000) < 0.5
    setting = {"sample_rate": sample_rate, "noise_multiplier": 10.0, "steps": 100, "delta": 1e-5}
    scores = rng.normal(size=4000) + signal * coins
    return judge_canaries("here", setting, scores, coins, claimed_epsilon=claimed, significance=0.01)


GOOD, BAD = (Check(layer="noise", name="scale", found=x, high=1) for x in (0, 2))


def result(**changes) -> AuditResult:
    return AuditResult(**{"checks": (GOOD,), "full_batch": canaries(), "sampled": canaries(sample_rate=0.1), **changes})


def test_a_right_mechanism_passes_with_its_bounds_beside_the_claim():
    plain = result().to_plain()
    assert plain["passed"]
    assert plain["violations"] == []
    assert 0 < plain["clopper_pearson_lower_bound"] < plain["gdp_estimate"] < plain["claimed_epsilon"] == 4.377
    assert 0 < plain["one_run_lower_bound"] < plain["gdp_estimate"]
    assert plain["layers"]["noise"] == {"checks": 1, "violations": 0}
    json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checks": (GOOD, BAD)}, "noise: scale: 2, at most 1"),
        ({"full_batch": canaries(signal=2.0)}, "here: epsilon is at least (gdp)"),
        ({"sampled": canaries(signal=2.0, sample_rate=0.1)}, "here: epsilon is at least (gdp)"),
        ({"full_batch": canaries(signal=0.2)}, "strength of the audit"),
    ],
)
def test_a_violation_is_named(changes, words):
    found = result(**changes)
    assert not found.passed
    assert words in "\n".join(found.to_plain()["violations"])


def test_a_sampled_run_needs_no_strength_of_its_own():
    assert result(sampled=canaries(signal=0.2, sample_rate=0.1)).passed


def test_a_bound_on_the_claim_itself_is_no_violation():
    full = canaries()
    assert replace(full, claimed_epsilon=full.bounds.gdp - 0.009).checks()[2].passed
    assert not replace(full, claimed_epsilon=full.bounds.gdp - 0.011).checks()[2].passed


def test_the_picture_is_a_png_that_differs_with_the_result():
    one, other = draw_plot(result()), draw_plot(result(full_batch=canaries(signal=2.0)))
    assert Image.open(io.BytesIO(one)).format == "PNG"
    assert one != other
