"""Every entry of a Ray job runs its own stage and refuses what the command line refuses, in one line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import yaml

from rapid_dist.run import STAGES, Run

JOBS = Path(__file__).parents[2] / "jobs"
ENTRIES = {"run": STAGES, **{stage.replace("-", "_"): (stage,) for stage in STAGES}}


@pytest.fixture
def run_entry(monkeypatch):
    """The function of an entry's name and arguments that gives its exit code."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")
        return ended.value.code

    return run


def test_there_is_an_entry_for_each_stage_one_for_all_and_one_for_studies():
    assert {path.stem for path in JOBS.glob("*.py")} == {*ENTRIES, "sweep"}


def test_the_entry_of_studies_runs_one_and_ends_with_one_json_line(run_entry, monkeypatch, spec_file, tmp_path, capsys):
    asked = []
    monkeypatch.setattr("rapid_dist.tune.run.run_study", lambda *a: asked.append(a) or {"study": "done"})
    settings = yaml.safe_load(spec_file().read_text()) | {"tune": {"space": {"schedule.split_step": [50, 60]}}}
    spec = tmp_path / "study.yaml"
    spec.write_text(yaml.safe_dump(settings))
    assert run_entry("sweep", "--spec", spec, "--out", tmp_path / "out", "--set", "tune.num_trials=3") == 0
    ((study, out),) = asked
    assert study.tune.num_trials == 3
    assert out.uri == str(tmp_path / "out")
    assert capsys.readouterr().out == '{"study": "done"}\n'


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_runs_its_stages_with_the_settings_given(run_entry, monkeypatch, spec_file, tmp_path, capsys, name):
    asked = []
    monkeypatch.setattr(Run, "run_stages", lambda run, stages: asked.append((run, stages)) or [])
    monkeypatch.setattr(Run, "report", lambda run: {"spent_epsilon": 1.5})
    out = tmp_path / "out"
    assert run_entry(name, "--spec", spec_file(), "--out", out, "--set", "training.steps=7") == 0
    ((run, stages),) = asked
    assert stages == ENTRIES[name]
    assert run.spec.training.steps == 7
    assert run.out.uri == str(out)
    report = ', "report": {"spent_epsilon": 1.5}' if name in ("run", "evaluate") else ""
    assert capsys.readouterr().out == f'{{"out": "{out}", "stages": []{report}}}\n'


@pytest.mark.parametrize("name", [*ENTRIES, "sweep"])
def test_an_absent_spec_is_one_line(run_entry, capsys, tmp_path, name):
    assert run_entry(name, "--spec", tmp_path / "none.yaml", "--out", tmp_path / "out") == 2
    line = capsys.readouterr().err
    assert line.startswith(f"rapid-dist: spec file {tmp_path}/none.yaml does not exist; give the path of a YAML spec")
    assert line.count("\n") == 1
