"""More images later: exact counts, nothing of the run touched, resumable, other requests refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rapid_dist.errors import InputError
from rapid_dist.run import Run
from rapid_dist.sampling.draw import class_counts, labels_of_counts

FOUR = {"num_classes": 4, "class_names": ("a", "b", "c", "d"), "proportions": None}


def test_counts_are_those_asked_for_and_the_rest_is_shared():
    assert class_counts(10, {"b": 4}, **FOUR) == (2, 4, 2, 2)
    assert class_counts(None, {"b": 4, "3": 1}, **FOUR) == (0, 4, 0, 1)
    assert class_counts(9, {}, **{**FOUR, "proportions": (0.0, 1 / 3, 2 / 3, 0.0)}) == (0, 3, 6, 0)
    assert class_counts(5, {}, num_classes=0, class_names=None, proportions=None) == (5,)
    for total in range(1, 50):
        assert sum(class_counts(total, {}, **FOUR)) == total


@pytest.mark.parametrize(
    ("total", "asked"),
    [(3, {"b": 4}), (9, dict.fromkeys("abcd", 1)), (5, {"e": 1}), (5, {"9": 1}), (0, {}), (-1, {}), (None, {})],
)
def test_counts_that_do_not_fit_are_refused(total, asked):
    with pytest.raises(InputError):
        class_counts(total, asked, **FOUR)


def test_a_class_by_name_and_by_number_is_one_class():
    with pytest.raises(InputError, match="twice"):
        class_counts(5, {"a": 1, "0": 1}, **FOUR)


def test_labels_have_the_counts():
    assert np.bincount(labels_of_counts((3, 0, 5), 3, seed=1)).tolist() == [3, 0, 5]
    assert labels_of_counts((4,), 0, seed=1).tolist() == [-1] * 4


def test_more_images_leave_the_run_as_it_was_and_are_new(call, finished_run, state, tmp_path):
    before = state(finished_run.out.uri)
    out = tmp_path / "more"
    line = ("sample", finished_run.out.uri, "--num", 50, "--class", "1=20", "--out", out, "--json")
    answer = json.loads(call(*line).stdout.splitlines()[-1])
    assert answer["counts"] == {"0": 10, "1": 20, "2": 10, "3": 10}
    assert state(finished_run.out.uri) == before

    drawn = Run.open(finished_run.out.uri).sample_more(50, classes={"1": 20}, out=out)  # finished: skipped
    own = {image.numpy().tobytes() for image, _ in finished_run.samples()}
    assert not own & {image.numpy().tobytes() for image, _ in drawn}
    assert drawn.statement == finished_run.samples().statement
    again, _ = finished_run.sample(1, labels=int(drawn[0][1]), first_index=40)
    assert np.abs(again[0].astype(int) - drawn[0][0].numpy().astype(int)).max() <= 1


def test_a_draw_that_was_cut_goes_on_and_another_request_is_refused(call, refused, finished_run, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    call("sample", finished_run.out.uri, "--num", 45, "--seed", 3, "--out", whole)
    call("sample", finished_run.out.uri, "--num", 45, "--seed", 3, "--out", cut)
    manifest = json.loads((cut / "manifest.json").read_text())
    begun = {name: manifest[name] for name in ("stage", "spec", "inputs")}
    (cut / "manifest.json").unlink()
    (cut / "begun.json").write_text(json.dumps(begun))
    progress = cut / "progress-sample"
    progress.mkdir()
    kept = manifest["files"][0]
    (progress / "000000.json").write_text(json.dumps({"file": kept}))
    time = (cut / kept["path"]).stat().st_mtime_ns

    assert "another spec" in refused("sample", finished_run.out.uri, "--num", 46, "--seed", 3, "--out", cut)
    call("sample", finished_run.out.uri, "--num", 45, "--seed", 3, "--out", cut)
    assert (cut / kept["path"]).stat().st_mtime_ns == time
    assert len(Run.open(finished_run.out.uri).sample_more(45, seed=3, out=cut)) == 45


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--num", 0),
        ("--num", 5, "--class", "9=1"),
        ("--class", "1"),
        ("--num", 5, "--class", "1=2", "--class", "1=3"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_without_ray(refused, finished_run, no_ray, options, tmp_path):
    assert refused("sample", finished_run.out.uri, *options)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_run_is_no_place_for_more(refused, finished_run):
    for out in (finished_run.out.uri, finished_run.store("train").uri, finished_run.store("images/private").uri):
        assert "another --out" in refused("sample", finished_run.out.uri, "--num", 5, "--out", out)


def test_a_folder_without_a_run_is_refused(refused, tmp_path):
    assert "give the folder of a run" in refused("sample", tmp_path / "none", "--num", 5)
