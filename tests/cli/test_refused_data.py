"""Images that cannot be used: the file is named, and what to do."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

SEPARATE = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A flat folder of four images."""
    path = tmp_path / "images"
    path.mkdir()
    for index, image in enumerate(SEPARATE):
        Image.fromarray(image).save(path / f"{index}.png")
    return path


@pytest.fixture
def refused_ingest(refused, tmp_path):
    """The function (source, *options) -> the line with which ingest refuses it as public images."""

    def invoke(source, *options, **settings):
        arguments = ("ingest", source, "--out", tmp_path / "out", "--privacy-class", "public", *options)
        line = refused(*arguments, **settings)
        assert not (tmp_path / "out" / "manifest.json").exists()
        return line

    return invoke


def test_a_missing_path_is_named_without_starting_ray(no_ray, refused_ingest, tmp_path):
    line = refused_ingest(tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere does not exist; expected a folder of class folders" in line


def test_an_empty_folder_is_named_without_starting_ray(no_ray, refused_ingest, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty holds no images; expected" in refused_ingest(tmp_path / "empty")


def test_a_file_of_unknown_kind_is_named_without_starting_ray(no_ray, refused_ingest, tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    assert "images.zip is a file of unknown kind; expected" in refused_ingest(tmp_path / "images.zip")


def test_missing_labels_are_asked_for_without_starting_ray(no_ray, refused_ingest, folder):
    line = refused_ingest(folder, "--num-classes", "2")
    assert "has no labels but classes are asked for; use class sub-folders, a label column" in line


def test_a_privacy_class_is_never_guessed(no_ray, call, folder, tmp_path):
    result = call("ingest", folder, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--privacy-class" in result.stderr
    assert not (tmp_path / "out").exists()


def test_equality_is_never_a_reason_to_drop_public_images(no_ray, refused_ingest, folder, tmp_path):
    assert "never the other way" in refused_ingest(folder, "--drop-equal-to", tmp_path)


def test_a_label_above_the_number_of_classes_is_named(ray_cluster, refused_ingest, tmp_path):
    np.savez(tmp_path / "a.npz", images=SEPARATE, labels=np.array([0, 1, 2, 3]))
    line = refused_ingest(tmp_path / "a.npz", "--num-classes", "3", after_progress=True)
    assert "a.npz has labels of 3 or more but data.num_classes is 3; labels are 0 to num_classes - 1" in line


def test_a_corrupt_image_is_named_and_skip_corrupt_counts_it(ray_cluster, refused_ingest, call, folder, tmp_path):
    (folder / "2.png").write_bytes(b"not an image")
    line = refused_ingest(folder, after_progress=True)
    assert f"{folder}/2.png is corrupt" in line
    assert "--skip-corrupt" in line
    lax = ("ingest", folder, "--out", tmp_path / "lax", "--privacy-class", "public", "--skip-corrupt", "--json")
    result = call(*lax)
    answer = json.loads(result.stdout.splitlines()[-1])
    assert (result.exit_code, answer["num_corrupt"], answer["num_examples"]) == (0, 1, 3)


def test_mixed_shapes_name_both_images_and_the_setting(ray_cluster, refused_ingest, folder):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "z.png")
    line = refused_ingest(folder, after_progress=True)
    for word in (f"{folder}/0.png is (1, 8, 8)", f"{folder}/z.png is (1, 16, 16)", "set data.image_size"):
        assert word in line


def test_private_images_given_as_public_ones_are_refused_and_kept(
    no_ray, refused, finished_run, spec_file, tmp_path, state
):
    before = state(finished_run.private.uri)
    spec = spec_file(data={"public": finished_run.private.uri})
    line = refused("run", spec, "--out", tmp_path / "out", after_progress=True)
    assert f"{finished_run.private.uri} is private; expected public data here" in line
    for command in ("pretrain", "build-kb"):
        line = refused(command, spec, "--out", tmp_path / "out", after_progress=True)
        assert "is private; expected public data here" in line
    assert state(finished_run.private.uri) == before
    assert not (tmp_path / "out" / "pretrain").exists()


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("pretrain", "images/public has no manifest.json; run the stage 'ingest' first"),
        ("build-kb", "images/public has no manifest.json; run the stage 'ingest' first"),
        ("train", "images/private has no manifest.json; run the stage 'ingest' first"),
        ("sample", "train has no manifest.json; run the stage 'train' first"),
        ("evaluate", "has no manifest.json; run the stage"),
    ],
)
def test_a_stage_before_its_time_names_the_stage_to_run_first(no_ray, refused, spec_file, tmp_path, command, missing):
    assert missing in refused(command, spec_file(), "--out", tmp_path / "out", after_progress=True)


def test_training_before_pretraining_names_pretraining(no_ray, refused, spec_file, copied_run):
    import shutil

    shutil.rmtree(copied_run / "train")
    shutil.rmtree(copied_run / "pretrain")
    line = refused("train", spec_file(), "--out", copied_run, after_progress=True)
    assert "pretrain has no manifest.json; run the stage 'pretrain' first" in line
