"""`rapid-dist tune` on bad input: one line that says what to do, before Ray starts or a file is written."""

from __future__ import annotations

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("no_ray")

TUNE = {"space": {"training.learning_rate": {"log": [1e-4, 1e-2]}}, "num_trials": 2}


@pytest.fixture
def study_file(spec_file):
    """The function of changed tune settings that writes a tiny study and returns its path."""

    def write(**changes):
        path = spec_file()
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "tune": {**TUNE, **changes}}))
        return path

    return write


def test_a_missing_file_is_named(refused, tmp_path):
    line = refused("tune", tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert f"{tmp_path}/none.yaml does not exist; give the path of a YAML spec" in line


def test_a_run_spec_without_a_search_says_what_to_add_or_to_use(refused, spec_file, tmp_path):
    line = refused("tune", spec_file(), "--out", tmp_path / "out")
    assert "has no tune section; add one with mode and space, or use `rapid-dist run`" in line
    assert not (tmp_path / "out").exists()


def test_run_refuses_a_study_and_names_the_command_for_it(refused, study_file, tmp_path):
    for dry_run in ([], ["--dry-run"]):
        line = refused("run", study_file(), "--out", tmp_path / "out", *dry_run)
        assert "give it to `rapid-dist tune`, whose best.yaml is a spec for this command" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.mode=cheap", ["tune.mode is 'cheap'", "compose, public_proxy, repeat_select, subset"]),
        ("tune.num_trails=4", ["unknown key 'tune.num_trails'", "did you mean 'num_trials'?"]),
        ("tune.space.training.stepz=[1, 2]", ["'training.stepz'", "did you mean 'steps'?"]),
        ("tune.space.privacy.target_epsilon=[1, 2]", ["'privacy.target_epsilon'", "which a trial may not change"]),
        ("tune.scheduler=asha", ["num_rungs is 1", "use 2 or more"]),
        ("tune.objective=noisy_accuracy", ["reads no private record", "use proxy_accuracy or public_fid"]),
        ("training.steps=many", ["training.steps is 'many'", "expected a whole number"]),
        ("tune.mode", ["--set 'tune.mode'", "expected section.key=value"]),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(refused, study_file, tmp_path, override, words):
    line = refused("tune", study_file(), "--out", tmp_path / "out", "--set", override)
    assert [w for w in words if w not in line] == []
    assert not (tmp_path / "out").exists()


def test_repeat_select_with_a_searcher_that_learns_is_refused_with_the_reason(refused, study_file, tmp_path):
    line = refused("tune", study_file(mode="repeat_select", searcher="optuna"), "--out", tmp_path / "out")
    assert "it learns from the scores of earlier trials; use searcher random, or mode compose" in line


def test_a_folder_of_another_study_names_the_setting_that_differs(refused, study_file, tmp_path):
    from rapid_dist.specs.study import load_study

    path = study_file()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.yaml").write_text(load_study(str(path)).to_yaml())
    before = (tmp_path / "out" / "study.yaml").read_bytes()
    line = refused("tune", path, "--out", tmp_path / "out", "--set", "tune.num_trials=5")
    assert "holds another study (tune.num_trials: 2 -> 5)" in line
    assert "use another --out folder, or the first spec" in line
    assert (tmp_path / "out" / "study.yaml").read_bytes() == before


def test_the_help_names_every_mode(call):
    from rapid_dist.specs.study import MODES

    text = call("tune", "--help").stdout
    assert [mode for mode in MODES if mode not in text] == []
