"""What a data scientist types, run as it stands: the examples of the documentation, and a session on a finished run."""

from __future__ import annotations

import doctest
import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rapid_dist as rd
from rapid_dist import layout
from rapid_dist import run as run_module
from rapid_dist.privacy import clipping
from rapid_dist.run import STAGES
from rapid_dist.storage.manifest import read_manifest, write_manifest
from rapid_dist.storage.store import Store


def examples_pass(module, **names) -> bool:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, extraglobs=names, optionflags=options, exclude_empty=True)
    return result.attempted > 0 and result.failed == 0


def files_of(folder) -> dict[str, str]:
    """Path -> digest of every file, and when it was last written."""
    root = Path(folder)
    return {
        str(p.relative_to(root)): f"{hashlib.sha256(p.read_bytes()).hexdigest()} {p.stat().st_mtime_ns}"
        for p in root.rglob("*")
        if p.is_file()
    }


@pytest.fixture(scope="module")
def released(finished_run, tmp_path_factory) -> Path:
    """A copy of what a finished run may give away: no private image, no ledger, no log of the owner."""
    folder = tmp_path_factory.mktemp("released") / "out"
    private = [layout.PRIVATE_IMAGES, layout.TEST_IMAGES, layout.EVALUATION, layout.OWNER_LOG]
    shutil.copytree(finished_run.out.uri, folder)
    for name in private:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return folder


def test_the_examples_of_privacy_run(tmp_path):
    assert examples_pass(rd.privacy, folder=tmp_path)


def test_the_example_of_clipping_runs():
    assert examples_pass(clipping)


def test_the_examples_of_the_knowledge_base_run(finished_run):
    assert examples_pass(rd.knowledge_base, folder=finished_run.out.uri, features=np.zeros((2, 8)))


def test_the_examples_of_a_run_run(finished_run, tmp_path, monkeypatch):
    (tmp_path / "spec.yaml").write_text(finished_run.spec.to_yaml())
    (tmp_path / "my-run").symlink_to(finished_run.out.uri, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert examples_pass(run_module)


def test_a_finished_run_has_nothing_left_to_do(finished_run):
    before = files_of(finished_run.out.uri)
    results = rd.Run.open(finished_run.out.uri)()
    assert all(result.skipped for result in results)
    assert {result.stage.split()[0] for result in results} == set(STAGES)
    assert files_of(finished_run.out.uri) == before


def test_samples_are_a_torch_dataset(finished_run):
    samples = finished_run.samples()
    assert (len(samples), samples.class_names) == (40, ("0", "1", "2", "3"))
    image, label = samples[7]
    assert (image.shape, image.dtype, type(label)) == ((1, 8, 8), torch.uint8, int)
    batches = list(torch.utils.data.DataLoader(samples, batch_size=16))
    assert [len(images) for images, _ in batches] == [16, 16, 8]
    assert torch.cat([labels for _, labels in batches]).tolist() == samples.labels.tolist()
    assert samples.statement["epsilon"] <= 8
    assert finished_run.samples(public_only=True).manifest.privacy_class == "public"


def test_further_samples_are_of_the_classes_asked_for(finished_run):
    images, labels = finished_run.sample(5, labels=[0, 1, 2, 3, 0])
    assert (images.shape, images.dtype) == ((5, 1, 8, 8), np.uint8)
    assert (labels.tolist(), labels.dtype) == ([0, 1, 2, 3, 0], np.int64)


def almost(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether images are the same up to the rounding of a kernel chosen for another number of rows."""
    return one.shape == other.shape and int(np.abs(one.astype(int) - other.astype(int)).max()) <= 1


def test_a_further_sample_is_a_function_of_seed_index_and_label(finished_run):
    images, labels = finished_run.sample(6, seed=11)
    again, same = finished_run.sample(6, seed=11)
    assert np.array_equal(images, again)
    assert np.array_equal(labels, same)
    fewer, first = finished_run.sample(3, seed=11)
    assert almost(images[:3], fewer)
    assert np.array_equal(labels[:3], first)
    later, last = finished_run.sample(2, seed=11, first_index=4)
    assert almost(images[4:], later)
    assert np.array_equal(labels[4:], last)
    assert not almost(images, finished_run.sample(6, labels=labels.tolist(), seed=12)[0])


def test_the_runs_own_samples_come_back_by_their_seed_index_and_label_and_without_a_seed_others(finished_run):
    samples = finished_run.samples()
    own = np.stack([samples[i][0].numpy() for i in range(10)])
    labels = samples.labels[:10].tolist()
    assert almost(finished_run.sample(10, labels=labels, first_index=0)[0], own)
    assert almost(finished_run.sample(10, labels=labels, seed=finished_run.spec.sampling.seed)[0], own)
    assert not almost(finished_run.sample(10, labels=labels)[0], own)


def test_drawing_further_samples_needs_no_private_data_and_no_ledger_and_leaves_the_folder_as_it_is(released):
    before = files_of(released)
    images, _ = rd.Run.open(released).sample(3)
    assert len(images) == 3
    assert files_of(released) == before


def test_drawing_further_samples_does_not_need_ray(released):
    code = (
        "import sys\n"
        "import rapid_dist as rd\n"
        f"images, labels = rd.Run.open({str(released)!r}).sample(2, labels=1)\n"
        "assert images.shape == (2, 1, 8, 8) and labels.tolist() == [1, 1]\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_classes_may_be_named(finished_run, released, tmp_path):
    named = tmp_path / "named"
    shutil.copytree(released, named)
    run = rd.Run(finished_run.spec, named, overrides={"data.class_names": ["ant", "bee", "cat", "dog"]})
    (named / layout.SPEC).write_text(run.spec.to_yaml())
    assert run.sample(2, labels=["dog", 1])[1].tolist() == [3, 1]
    assert run.sample(2, labels="cat")[1].tolist() == [2, 2]
    assert run.samples().class_names == ("ant", "bee", "cat", "dog")
    with pytest.raises(rd.InputError, match="there is no class 'cow'; expected 0 to 3, or one of ant, bee, cat, dog"):
        run.sample(1, labels="cow")


def test_a_debugging_key_is_said_of_further_samples(released, tmp_path, capsys):
    marked = tmp_path / "marked"
    shutil.copytree(released, marked)
    train = Store(marked / layout.TRAIN)
    write_manifest(train, replace(read_manifest(train), not_private_reasons=("a fixed key",)))
    rd.Run.open(marked).sample(1)
    told = capsys.readouterr()
    assert "NOT PRIVATE: a fixed key" in told.out + told.err
