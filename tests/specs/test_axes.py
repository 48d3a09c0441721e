"""Axes of a search space: every value inside, each law as stated, and as written again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from rapid_dist.errors import SpecError
from rapid_dist.specs.axes import KINDS, parse_axis

WRITTEN = {
    "choice": {"choice": [3, 1, 2]},
    "uniform": {"uniform": [0.5, 2.0]},
    "log": {"log": [1e-4, 1e-1]},
    "int": {"int": [300, 900], "step": 100},
    "log_int": {"log_int": [1, 12]},
}


def draws(written, count=4000, seed=7):
    axis, rng = parse_axis("x", written), np.random.default_rng(seed)
    return [axis.draw(rng) for _ in range(count)]


def test_every_kind_is_tried_here():
    assert set(WRITTEN) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_axis_reads_what_it_writes(kind):
    axis = parse_axis("x", WRITTEN[kind])
    assert axis.to_plain() == WRITTEN[kind]
    assert parse_axis("x", axis.to_plain()) == axis
    assert axis.is_log == (kind in ("log", "log_int"))


def test_a_list_is_a_choice_and_its_values_keep_their_types():
    axis = parse_axis("x", ["cosine", None, True, 3, "1e-4", [0.5, 0.5]])
    assert axis.values == ("cosine", None, True, 3, 1e-4, [0.5, 0.5])
    assert [type(v) for v in axis.values[2:4]] == [bool, int]
    assert axis.to_plain() == {"choice": ["cosine", None, True, 3, 1e-4, [0.5, 0.5]]}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"choice": ["a", "b", "c"]}, {"a": 1, "b": 1, "c": 1}),
        ({"int": [3, 6]}, {3: 1, 4: 1, 5: 1, 6: 1}),
        ({"int": [3, 13], "step": 4}, {3: 1, 7: 1, 11: 1}),
        ({"log_int": [1, 6]}, {k: math.log((k + 0.5) / (k - 0.5)) for k in range(1, 7)}),
    ],
)
def test_whole_numbers_and_choices_have_their_law_and_every_end_occurs(written, expected):
    found = draws(written)
    assert set(found) == set(expected)
    observed = [found.count(value) for value in expected]
    shares = np.array(list(expected.values())) / sum(expected.values())
    assert chisquare(observed, shares * len(found)).pvalue > 1e-3
    others = np.roll(np.arange(1, len(shares) + 1), 1) / sum(range(1, len(shares) + 1))
    assert chisquare(observed, others * len(found)).pvalue < 1e-6


def test_numbers_are_uniform_or_uniform_in_the_logarithm():
    uniform, log = np.array(draws(WRITTEN["uniform"])), np.array(draws(WRITTEN["log"]))
    assert ((uniform >= 0.5) & (uniform <= 2.0)).all()
    assert ((log >= 1e-4) & (log <= 1e-1)).all()
    assert kstest(uniform, "uniform", args=(0.5, 1.5)).pvalue > 1e-3
    assert kstest(np.log(log), "uniform", args=(math.log(1e-4), math.log(1e3))).pvalue > 1e-3
    assert kstest(log, "uniform", args=(1e-4, 1e-1)).pvalue < 1e-6


@pytest.mark.parametrize("kind", ["int", "log_int"])
def test_whole_numbers_are_python_integers(kind):
    assert {type(v) for v in draws(WRITTEN[kind], count=20)} == {int}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (5, "expected a list of values, or one of"),
        ("0.1", "expected a list of values, or one of"),
        ({}, "expected exactly one of"),
        ({"int": [1, 2], "log": [1, 2]}, "expected exactly one of"),
        ({"logint": [1, 2]}, "did you mean 'log_int'"),
        ({"uniform": 3}, "expected a list"),
        ([], "expected a list"),
        ({"uniform": [1, 2, 3]}, "two numbers, the lower first"),
        ({"uniform": [2, 1]}, "two numbers, the lower first"),
        ({"uniform": [1, 1]}, "two numbers, the lower first"),
        ({"uniform": ["low", "high"]}, "two numbers, the lower first"),
        ({"uniform": [True, 2]}, "two numbers, the lower first"),
        ({"uniform": [0, math.inf]}, "two numbers, the lower first"),
        ({"uniform": [math.nan, 1]}, "two numbers, the lower first"),
        ({"int": [1.5, 3]}, "whole numbers"),
        ({"log_int": [1, 3.5]}, "whole numbers"),
        ({"log": [0, 1]}, "above 0"),
        ({"log_int": [0, 5]}, "above 0"),
        ({"choice": [1, 2], "step": 2}, "step, which belongs to int"),
        ({"uniform": [1, 2], "step": 2}, "with int"),
        ({"int": [1, 9], "step": 0}, "at least 1"),
        ({"int": [1, 9], "step": 1.5}, "at least 1"),
    ],
)
def test_what_is_no_axis_is_refused_by_its_name(written, said):
    with pytest.raises(SpecError, match=said) as caught:
        parse_axis("tune.space.training.steps", written)
    assert "tune.space.training.steps" in str(caught.value)


def test_bounds_that_yaml_read_as_text_are_numbers():
    axis = parse_axis("x", {"log": ["1e-4", "1e-2"]})
    assert (axis.low, axis.high) == (1e-4, 1e-2)
