"""Settings that cannot be: one line with what was got, what was expected and what to do, before Ray starts."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("schedule.split_step=80", ["split_step is 80", "query_step is 80", "must be below"]),
        ("schedule.split_step=90", ["split_step is 90", "query_step is 80", "must be below"]),
        ("privacy.target_epsilon=0", ["privacy.target_epsilon is 0", "above 0"]),
        ("privacy.target_epsilon=.nan", ["privacy.target_epsilon is nan", "above 0"]),
        ("privacy.target_epsilon=1000", ["privacy.target_epsilon is 1000", "at most 100"]),
        ("privacy.target_delta=0", ["privacy.target_delta is 0", "between 0 and 1"]),
        ("privacy.target_delta=1", ["privacy.target_delta is 1", "between 0 and 1"]),
        ("privacy.target_delta=0.01", ["0.01", "more than 1/N", "nominal_size 128", "use at most"]),
        ("privacy.sample_rate=1.5", ["privacy.sample_rate is 1.5", "at most 1"]),
        ("training.stepz=5", ["unknown key 'training.stepz'", "did you mean 'steps'?"]),
        ("trainnig.steps=5", ["unknown key 'trainnig'", "did you mean 'training'?"]),
        ("training.steps=many", ["training.steps is 'many'", "expected a whole number"]),
        ("training.steps", ["--set 'training.steps'", "expected section.key=value"]),
        ("data.image_size=7", ["data.image_size is 7", "8 to 64"]),
        ("data.num_channels=2", ["data.num_channels is 2", "1 (grey) or 3 (RGB)"]),
        ("privacy.votes_noise_multiplier=null", ["'votes'", "votes_noise_multiplier is not set"]),
        ("runtime.num_workers=0", ["runtime.num_workers is 0", "above 0"]),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_setting_out_of_range_is_named(refused, spec_file, tmp_path, override, words, dry_run):
    line = refused("run", spec_file(), "--out", tmp_path / "out", "--set", override, *["--dry-run"] * dry_run)
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "pretrain", "build-kb", "train", "sample", "evaluate"])
def test_a_missing_spec_file_is_named_by_every_command(refused, tmp_path, command):
    line = refused(command, tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert f"{tmp_path}/none.yaml does not exist; give the path of a YAML spec" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [", ["spec.yaml is not YAML at line"]),
        ("just a word", ["holds str; expected a mapping"]),
        ("data: {private: a, public: b}\n", ["privacy is missing; give it in the spec file or as --set"]),
    ],
)
def test_a_file_that_is_no_spec_says_what_is_wrong(refused, tmp_path, text, words):
    (tmp_path / "spec.yaml").write_text(text)
    line = refused("run", tmp_path / "spec.yaml", "--out", tmp_path / "out")
    for word in words:
        assert word in line


def test_the_demo_checks_its_overrides_too(refused, tmp_path):
    assert "did you mean 'steps'?" in refused("demo", "--out", tmp_path, "--set", "training.step=3")


def test_an_out_folder_of_another_spec_names_the_key_that_differs(refused, spec_file, copied_run, state):
    before = state(copied_run)
    line = refused("run", spec_file(), "--out", copied_run, "--set", "training.learning_rate=0.5")
    assert "training.learning_rate: 0.001 -> 0.5" in line
    assert "use another --out folder, or the first spec" in line
    assert state(copied_run) == before


def test_settings_of_the_runtime_alone_do_not_make_another_spec(call, spec_file, copied_run, state):
    before = state(copied_run)
    result = call("run", spec_file(), "--out", copied_run, "--set", "runtime.num_workers=1")
    assert result.exit_code == 0
    assert state(copied_run) == before


def test_a_spec_that_never_began_gives_way_to_the_corrected_one(refused, spec_file, tmp_path):
    wrong = spec_file(data={"public": str(tmp_path / "typo.npz")})
    assert "typo.npz does not exist" in refused("run", wrong, "--out", tmp_path / "out", after_progress=True)
    corrected = spec_file(data={"public": str(tmp_path / "typo2.npz")})
    assert "typo2.npz does not exist" in refused("run", corrected, "--out", tmp_path / "out", after_progress=True)
