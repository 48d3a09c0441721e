"""A check says what it found and what was allowed; nothing that is not a number passes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rapid_dist.audit.checks import Check, violations


@pytest.mark.parametrize(
    ("found", "passed"), [(0.0, True), (1.0, True), (1.001, False), (-0.1, False), (math.nan, False), (math.inf, False)]
)
def test_a_check_passes_within_its_bounds_only(found, passed):
    assert Check(layer="noise", name="n", found=found, low=0, high=1).passed == passed


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"high": 2}, "at most 2"),
        ({"low": 2}, "at least 2"),
        ({"low": 0, "high": 0}, "expected 0"),
        ({"low": 1, "high": 2}, "expected 1 to 2"),
    ],
)
def test_words_name_layer_value_and_bounds(bounds, words):
    assert Check(layer="noise", name="scale", found=1.25, **bounds).words == f"noise: scale: 1.25, {words}"


def test_plain_values_are_json_whatever_was_found():
    plain = Check(layer="noise", name="n", found=math.nan, high=1).to_plain()
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        "layer": "noise",
        "name": "n",
        "found": None,
        "low": None,
        "high": 1,
        "passed": False,
    }


def test_numbers_of_numpy_are_json_too():
    plain = Check(layer="noise", name="n", found=np.float32(1.5), low=np.float64(0), high=np.int64(2)).to_plain()
    assert json.loads(json.dumps(plain))["found"] == 1.5
    assert plain["passed"] is True


def test_violations_are_the_checks_that_failed():
    good, bad = (Check(layer="noise", name="n", found=x, high=1) for x in (0, 2))
    assert violations([good, bad, good]) == (bad,)
