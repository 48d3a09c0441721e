"""The gate: verdicts of numbers against bounds, and what is refused."""

from __future__ import annotations

import pytest

from rapid_dist.errors import ArtifactError, InputError
from rapid_dist.export.gate import check_release, judge
from rapid_dist.storage.store import Store

STATEMENT = {"epsilon": 2.5, "delta": 1e-5, "not_private_reasons": []}
REPORT = {"accuracy": {"synthetic": 0.8}, "fid": None, "not_measured": {"fid": "not asked for in this run"}}


def test_a_bound_is_kept_when_it_is_met_exactly():
    bounds = {"max_epsilon": 2.5, "max_delta": 1e-5, "min_accuracy": 0.8}
    assert [v.passed for v in judge(STATEMENT, REPORT, bounds)] == [True] * 3
    bounds = {"max_epsilon": 2.49, "max_delta": 9e-6, "min_accuracy": 0.81}
    assert [v.passed for v in judge(STATEMENT, REPORT, bounds)] == [False] * 3


def test_what_was_not_measured_fails_and_says_why():
    (verdict,) = judge(STATEMENT, REPORT, {"max_fid": 100})
    assert str(verdict) == "FAIL fid not measured (at most 100): not asked for in this run"


def test_the_epsilon_of_what_is_not_private_never_passes():
    statement = {**STATEMENT, "not_private_reasons": ["a debugging key"]}
    (verdict,) = judge(statement, None, {"max_epsilon": 100})
    assert str(verdict) == "FAIL epsilon of this run at delta 1e-05 2.5 (at most 100): NOT PRIVATE: a debugging key"


@pytest.mark.parametrize("bounds", [{}, {"max_epsilon": float("nan")}, {"max_fid": -1.0}, {"min_accuracy": 80.0}])
def test_bounds_that_mean_nothing_are_refused(bounds, tmp_path):
    with pytest.raises(InputError):
        check_release(Store(tmp_path), bounds)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="give the folder of a run"):
        check_release(Store(tmp_path), {"max_epsilon": 1.0})
