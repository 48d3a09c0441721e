"""What the commands print: help, version, plans, and one JSON object as the last line."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import numpy as np
import pytest

from rapid_dist import __version__
from rapid_dist.cli import main
from rapid_dist.specs import load_spec
from rapid_dist.training.plan import build_plan
from tests.tiny import NUM_PUBLIC

STAGES = ["pretrain", "build-kb", "train", "sample", "evaluate"]


def last_object(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_commands_are_the_stages_and_what_joins_them():
    assert set(main.commands) >= {"ingest", *STAGES, "run", "demo"}


def leaves(group, *names):
    """Every command that is no group, as (its words, the command)."""
    for name, command in sorted(group.commands.items()):
        yield from leaves(command, *names, name) if isinstance(command, click.Group) else [((*names, name), command)]


@pytest.mark.parametrize(("words", "command"), [pytest.param(*leaf, id=" ".join(leaf[0])) for leaf in leaves(main)])
def test_the_help_of_every_command_says_what_it_does_and_lists_its_options(call, words, command):
    result = call(*words, "--help")
    assert result.exit_code == 0
    assert command.help.split(".")[0].split()[0] in result.stdout
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert "--json" in {option.opts[0] for option in options}
    for option in options:
        assert option.opts[0] in result.stdout
        assert option.help, option.opts[0]
        assert option.help.split()[0] in result.stdout


def test_the_package_runs_as_a_module_and_knows_its_version():
    answer = subprocess.run([sys.executable, "-m", "rapid_dist", "--version"], capture_output=True, text=True)
    assert answer.returncode == 0
    assert answer.stderr == ""
    assert answer.stdout.split()[-1] == __version__


def test_a_dry_run_prints_what_it_will_cost_and_writes_nothing(no_ray, call, spec_file, tmp_path):
    plan = build_plan(load_spec(str(spec_file())))
    result = call("run", spec_file(), "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    assert f"noise multiplier  {plan.noise_multiplier:.4f}\n" in result.stdout
    assert f"epsilon           {plan.planned_epsilon().pld:.4f} (PLD)" in result.stdout
    assert "split_step: 70" in result.stdout
    assert not (tmp_path / "out").exists()
    answer = last_object(call("run", spec_file(), "--out", tmp_path / "out", "--dry-run", "--json"))
    assert answer["plan"]["noise_multiplier"] == plan.noise_multiplier
    assert answer["planned_epsilon"] == pytest.approx(plan.planned_epsilon().pld)
    assert answer["planned_epsilon"] < answer["plan"]["target_epsilon"] == 8
    assert answer["digest"] == load_spec(str(spec_file())).digest
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_reported_again_without_ray(no_ray, call, spec_file, finished_run):
    answer = last_object(call("run", spec_file(), "--out", finished_run.out.uri, "--json"))
    assert answer["spent_epsilon"] == finished_run.report()["spent_epsilon"]
    assert [s["stage"] for s in answer["stages"]] == [r.stage for r in finished_run.results]
    assert all(s["skipped"] for s in answer["stages"])
    assert set(answer["accuracy"]) == {"synthetic", "public_only", "real"}
    assert all(path.startswith(finished_run.out.uri) for path in answer["paths"].values())


def test_the_summary_of_a_run_states_the_promise_and_what_is_outside_it(no_ray, call, spec_file, finished_run):
    result = call("run", spec_file(), "--out", finished_run.out.uri)
    assert "of 8 at delta 0.001 (add_or_remove_one, one image)" in result.stdout
    assert "outside guarantee" in result.stdout


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_answers_in_json(no_ray, call, spec_file, finished_run, stage):
    answer = last_object(call(stage, spec_file(), "--out", finished_run.out.uri, "--json"))
    assert answer["out"] == finished_run.out.uri
    assert all(s["skipped"] and s["uri"].startswith(answer["out"]) for s in answer["stages"])
    assert answer["stages"]


def test_ingest_answers_in_json_and_says_nothing_of_the_salt(ray_cluster, call, tiny_sources, tmp_path):
    labelled = ("ingest", tiny_sources.public, "--num-classes", 4, "--class-names", "a,b,c,d", "--json")
    answer = last_object(call(*labelled, "--out", tmp_path / "public", "--privacy-class", "public"))
    assert answer["num_examples"] == NUM_PUBLIC
    assert answer["image_shape"] == [1, 8, 8]
    assert answer["class_names"] == ["a", "b", "c", "d"]
    np.savez(tmp_path / "mine.npz", images=np.full((3, 8, 8), 9, np.uint8))
    stated = ("--privacy-class", "private", "--image-size", 8, "--num-channels", 1)
    private = call("ingest", tmp_path / "mine.npz", "--out", tmp_path / "p", *stated, "--json")
    # How many private records there are, were corrupt or were public too is in the private manifest alone.
    assert set(last_object(private)) == {"out", "image_shape", "class_names"}
    salt = json.loads((tmp_path / "p" / "manifest.json").read_text())["facts"]["salt"]
    assert salt not in private.output
