"""A dataset's budget from the command line: set once, shared by all runs, refused before a record is read."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from rapid_dist import layout
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.storage.store import Store

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def dataset(finished_run, tmp_path):
    """The private images of the finished run as a dataset of their own, without a ledger."""
    folder = tmp_path / "dataset"
    shutil.copytree(finished_run.private.uri, folder)
    shutil.rmtree(folder / layout.LEDGER)
    return folder


def test_a_dataset_gets_a_budget_and_keeps_it(call, refused, dataset):
    first = call("ledger", "init", dataset, "--epsilon", 3, "--delta", 1e-3, "--json")
    assert json.loads(first.stdout.splitlines()[-1])["spent_epsilon"] == 0
    again = call("ledger", "init", dataset, "--epsilon", 3, "--delta", 1e-3)
    assert "may cost epsilon 3 at delta 0.001, one image; spent so far 0.0000" in again.stdout
    assert "was opened with" in refused("ledger", "init", dataset, "--epsilon", 30, "--delta", 1e-3)
    assert read_ledger(Store(dataset / layout.LEDGER)).target["target_epsilon"] == 3


@pytest.mark.parametrize("wrong", [("--epsilon", 0), ("--delta", 1)])
def test_a_budget_out_of_range_is_refused(refused, dataset, wrong):
    options = {"--epsilon": 3, "--delta": 1e-3} | dict([wrong])
    assert "expected epsilon above 0" in refused("ledger", "init", dataset, *(x for o in options.items() for x in o))
    assert not (dataset / layout.LEDGER / "000000.json").exists()


def test_only_a_private_dataset_has_a_budget(refused, finished_run, tmp_path):
    options = ("--epsilon", 3, "--delta", 1e-3)
    assert "expected private" in refused("ledger", "init", finished_run.public.uri, *options)
    assert "manifest" in refused("ledger", "init", tmp_path, *options)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_would_exceed_the_budget_of_its_dataset_is_refused_before_anything_starts(
    call, refused, dataset, finished_run, copied_run, state
):
    call("ledger", "init", dataset, "--epsilon", 3, "--delta", 1e-3)
    for name in (layout.TRAIN, layout.SAMPLES, layout.EVALUATION):
        shutil.rmtree(copied_run / name)
    spec = finished_run.spec.to_plain() | {"data": finished_run.spec.to_plain()["data"] | {"private": str(dataset)}}
    (copied_run / layout.SPEC).write_text(yaml.safe_dump(spec))
    before = state(dataset)
    line = refused("train", copied_run / layout.SPEC, "--out", copied_run, after_progress=True)
    assert "the plan of this job would bring epsilon from 0.000000 to" in line
    assert "over the dataset's budget 3.0 at delta 0.001; nothing was charged" in line
    assert state(dataset) == before


def test_show_lists_each_job_and_the_whole(call, finished_run):
    shown = json.loads(call("ledger", "show", finished_run.private.uri, "--json").stdout.splitlines()[-1])
    (job,) = shown["jobs"].values()
    assert job == {"spent_epsilon": shown["spent_epsilon"], "attempts": 1, "not_private_reasons": []}
