"""Searchers that learn: what they propose lies on the axes, and they begin with the spec as it stands."""

from __future__ import annotations

import sys

import pytest

from rapid_dist.errors import InputError
from rapid_dist.specs.study import Axis, StudySpec
from rapid_dist.tune.search import make_searcher
from tests.tune.studies import make_study

SPACE = """{
  schedule.split_step: [50, 60, 70],
  schedule.query_step: {int: [75, 95], step: 10},
  training.steps: {log_int: [10, 40]},
  training.noise_multiplicity: {int: [1, 4]},
  training.learning_rate: {log: [1.0e-4, 1.0e-2]},
  training.timestep_power: {uniform: [0.5, 2.0]},
}"""


def lies_on(axis: Axis, value) -> bool:
    if axis.kind == "choice":
        return value in axis.values
    is_whole = axis.kind in ("uniform", "log") or (value - axis.low) % axis.step == 0
    return axis.low <= value <= axis.high and is_whole


def study_with(searcher: str) -> StudySpec:
    return make_study(f"tune.searcher={searcher}", f"tune.space={SPACE}", "tune.mode=public_proxy")


@pytest.mark.parametrize("name", ["optuna", "hyperopt"])
@pytest.mark.filterwarnings("default")
def test_a_searcher_proposes_what_the_space_allows_beginning_with_the_spec(name):
    pytest.importorskip(name)
    study = study_with(name)
    searcher = make_searcher(study)
    proposals = []
    for i in range(12):
        proposals.append(searcher.suggest(f"trial-{i}"))
        searcher.on_trial_complete(f"trial-{i}", {"score": i / 12, "training_iteration": 1})
    assert proposals[0] == {
        "schedule.split_step": 60,
        "schedule.query_step": 75,
        "training.steps": 20,
        "training.noise_multiplicity": 4,
        "training.learning_rate": 1e-3,
        "training.timestep_power": 1.0,
    }
    assert len({tuple(sorted(p.items())) for p in proposals}) == 12
    for proposal in proposals:
        assert proposal.keys() == study.tune.space.keys()
        for key, value in proposal.items():
            assert lies_on(study.tune.space[key], value), (key, value)


@pytest.mark.parametrize("name", ["optuna", "hyperopt"])
def test_a_searcher_that_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"tune\.searcher is '{name}' but its package is not installed; `pip install"):
        make_searcher(study_with(name))
