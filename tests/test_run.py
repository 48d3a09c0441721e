"""A run as a Python user makes it: paths and overrides, what it will cost, and questions before it has answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

import rapid_dist as rd
from rapid_dist import layout
from rapid_dist.run import STAGES
from rapid_dist.storage.store import Store
from rapid_dist.training.plan import build_plan
from tests.tiny import TinySources, tiny_settings, write_spec

SOURCES = TinySources(private="private.npz", public="public.npz", test="test.npz")


@pytest.fixture
def spec_path(tmp_path) -> Path:
    return write_spec(tmp_path / "spec.yaml", tiny_settings(SOURCES, privacy={"noise_multiplier": 1.5}))


def test_spec_and_folder_may_be_text_paths_or_what_they_stand_for(spec_path, tmp_path):
    runs = [
        rd.Run(str(spec_path), str(tmp_path / "out")),
        rd.Run(spec_path, out=tmp_path / "out"),
        rd.Run(rd.load_spec(str(spec_path)), Store(tmp_path / "out")),
    ]
    assert len({run.spec.digest for run in runs}) == 1
    assert {run.out.uri for run in runs} == {str(tmp_path / "out")}
    assert repr(runs[0]) == f"Run('tiny', out={str(tmp_path / 'out')!r})"
    assert not (tmp_path / "out").exists()


OVERRIDES = {
    "privacy.target_epsilon": 3,
    "privacy.target_delta": 1e-5,
    "privacy.sample_rate": np.float64(0.125),
    "privacy.votes_noise_multiplier": None,
    "data.private": Path("other.npz"),
    "data.class_names": ("a b", "c: d", "e", "7"),
    "data.skip_corrupt": True,
    "knowledge_base.label_map": {0: 3, 1: 2},
    "sampling.starts": "nearest",
    "training.class_init": "distinct",
}


def _as_text(value) -> str:
    """A value as one writes it behind --set."""
    value = {Path: str, np.float64: float}.get(Path if isinstance(value, Path) else type(value), lambda same: same)(
        value
    )
    return yaml.safe_dump(value, default_flow_style=True)


@pytest.mark.parametrize("form", [dict, lambda values: [f"{k}={_as_text(v)}" for k, v in values.items()]])
@pytest.mark.parametrize("from_file", [True, False])
def test_overrides_are_settings_of_every_kind(spec_path, tmp_path, form, from_file):
    spec = spec_path if from_file else rd.load_spec(str(spec_path))
    made = rd.Run(spec, tmp_path, overrides=form(OVERRIDES)).spec
    for name, value in OVERRIDES.items():
        section, key = name.split(".")
        expected = str(value) if isinstance(value, Path) else value
        assert getattr(getattr(made, section), key) == expected, name


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("privacy.target_epsilon=3", "expected a mapping of settings, or a list of lines"),
        ({"privacy.target_epsilon": object()}, r"privacy\.target_epsilon is a object; expected a plain number"),
        ({"privacy.target_epsilom": 3}, "target_epsilon"),
        ({"privacy.target_epsilon": -3}, "target_epsilon"),
    ],
)
def test_wrong_overrides_are_value_errors_that_say_why(spec_path, tmp_path, overrides, words):
    with pytest.raises(ValueError, match=words) as caught:
        rd.Run(spec_path, tmp_path, overrides=overrides)
    assert type(caught.value) is rd.SpecError


def test_a_missing_spec_file_is_an_input_error(tmp_path):
    with pytest.raises(rd.InputError, match=r"no\.yaml does not exist"):
        rd.Run(tmp_path / "no.yaml", tmp_path)


def test_a_plan_says_what_the_run_will_cost_and_touches_nothing(spec_path, tmp_path):
    run = rd.Run(spec_path, tmp_path / "out")
    plan, built = run.plan(), build_plan(run.spec)
    cost = built.planned_epsilon()
    assert (plan.epsilon, plan.epsilon_prv, plan.epsilon_rdp) == (cost.pld, cost.prv, cost.rdp)
    assert plan.epsilon <= plan.target_epsilon == 8
    assert plan.epsilon <= plan.epsilon_rdp
    assert (plan.noise_multiplier, plan.steps, plan.expected_batch_size) == (built.noise_multiplier, 12, 32)
    assert (plan.delta, plan.is_private) == (1e-3, True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.epsilon = 0.0


def test_the_words_of_a_plan_hold_its_numbers(spec_path, tmp_path):
    plan = rd.Run(spec_path, tmp_path).plan()
    prv = f"PRV {plan.epsilon_prv:.4f}, RDP {plan.epsilon_rdp:.4f}"
    assert repr(plan) == (
        f"RunPlan(epsilon {plan.epsilon:.4f} of 8 at delta 0.001 ({prv}), noise multiplier "
        f"{plan.noise_multiplier:.4f}, 12 steps of about 32 records)"
    )
    assert "PRV not available" in repr(dataclasses.replace(plan, epsilon_prv=None))
    assert repr(dataclasses.replace(plan, is_private=False)).startswith("RunPlan(NOT PRIVATE")


def test_calling_a_run_runs_all_stages_or_those_named(spec_path, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(rd.Run, "run_stages", lambda self, stages: asked.append(stages))
    run = rd.Run(spec_path, tmp_path)
    run()
    run("pretrain", "build-kb")
    for method in (run.ingest, run.pretrain, run.build_knowledge_base, run.train, run.evaluate):
        method()
    singles = [(name,) for name in STAGES if name != "sample"]
    assert asked == [STAGES, ("pretrain", "build-kb"), *singles]


def test_a_stage_that_there_is_not_is_named_before_anything_is_written(spec_path, tmp_path):
    with pytest.raises(rd.SpecError, match="there is no stage 'tarin'; expected some of ingest, pretrain"):
        rd.Run(spec_path, tmp_path / "out")("tarin")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_cannot_be_opened(tmp_path):
    with pytest.raises(rd.ArtifactError, match="give the folder of a run"):
        rd.Run.open(tmp_path)


@pytest.mark.parametrize(
    "ask", [rd.Run.report, rd.Run.samples, lambda run: run.sample(1)], ids=["report", "samples", "sample"]
)
def test_what_is_not_finished_is_said_by_the_stage_to_run(spec_path, tmp_path, ask):
    run = rd.Run(spec_path, tmp_path / "out")
    run.save_spec()
    with pytest.raises(rd.ArtifactError, match="run the stage"):
        ask(rd.Run.open(tmp_path / "out"))


def test_further_samples_are_of_the_run_that_the_folder_holds(spec_path, tmp_path):
    rd.Run(spec_path, tmp_path / "out").save_spec()
    Store(tmp_path / "out").write_bytes(f"{layout.TRAIN}/begun.json", b"{}")
    with pytest.raises(rd.ArtifactError, match=r"holds a run of another spec .*num_steps"):
        rd.Run(spec_path, tmp_path / "out", overrides={"sampling.num_steps": 5}).sample(1)
    with pytest.raises(rd.ArtifactError, match="give the folder of a run"):
        rd.Run(spec_path, tmp_path / "elsewhere").sample(1)
