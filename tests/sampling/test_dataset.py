"""Samples as a dataset: every row once, parts read when needed, and the columns that Hugging Face expects."""

from __future__ import annotations

import io
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rapid_dist.errors import ArtifactError, InputError, PrivacyError
from rapid_dist.sampling import dataset as dataset_module
from rapid_dist.sampling.dataset import open_samples
from rapid_dist.storage.manifest import FileEntry, Manifest, write_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import ImageTable, write_images

ROWS = (3, 0, 2, 4)


def pixels(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (sum(ROWS), channels, 8, 8)).astype(np.uint8)


def write(store: Store, *, channels=1, labels=None, privacy_class="dp") -> None:
    images = pixels(channels)
    labels = np.arange(sum(ROWS)) % 3 if labels is None else labels
    files: list[FileEntry] = []
    for number, stop in enumerate(np.cumsum(ROWS)):
        rows = np.arange(stop - ROWS[number], stop)
        table = ImageTable(example_id=rows, image=images[rows], label=labels[rows].astype(np.int32))
        said = {"stage": "sample", "privacy_class": privacy_class}
        files.append(write_images(store, f"parts/part-{number:05d}.parquet", table, **said))
    facts = {"statement": {"epsilon": 1.0}} if privacy_class == "dp" else {}
    write_manifest(
        store, Manifest(stage="sample", privacy_class=privacy_class, spec={}, inputs={}, files=files, facts=facts)
    )


def opened(store: Store, *, num_classes=3, class_names=("ant", "bee", "cat")):
    return open_samples(store, stage="sample", num_classes=num_classes, class_names=class_names)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_sample_is_there_once_in_order(store, channels):
    write(store, channels=channels)
    samples = opened(store)
    assert len(samples) == sum(ROWS)
    assert torch.equal(torch.stack([image for image, _ in samples]), torch.tensor(pixels(channels)))
    assert [label for _, label in samples] == [i % 3 for i in range(sum(ROWS))] == samples.labels.tolist()
    assert torch.equal(samples[-1][0], samples[len(samples) - 1][0])


@pytest.mark.parametrize("index", [9, -10, 100])
def test_outside_the_samples_is_an_index_error(store, index):
    write(store)
    with pytest.raises(IndexError, match=f"sample {index} of 9"):
        opened(store)[index]


def test_a_part_is_read_once_and_only_when_one_of_its_images_is_asked_for(store, monkeypatch):
    write(store)
    read = []
    original = dataset_module.read_images
    monkeypatch.setattr(
        dataset_module, "read_images", lambda store, entry: read.append(entry.path) or original(store, entry)
    )
    samples = opened(store)
    assert samples.labels.size == 9
    assert read == []
    for index in (3, 4, 3, 8):
        samples[index]
    assert read == ["parts/part-00002.parquet", "parts/part-00003.parquet"]


def test_a_damaged_part_is_refused_when_it_is_read(store):
    write(store)
    samples = opened(store)
    store.write_bytes("parts/part-00003.parquet", b"damaged")
    assert samples[0][1] == 0
    with pytest.raises(ArtifactError, match="part-00003"):
        samples[8]


def test_a_dataset_pickles_into_the_workers_of_a_loader(store):
    write(store)
    samples = pickle.loads(pickle.dumps(opened(store)))
    assert torch.equal(samples[4][0], torch.tensor(pixels(1)[4]))


def test_private_images_are_no_samples(store):
    write(store, privacy_class="private")
    with pytest.raises(PrivacyError, match="expected dp or public"):
        opened(store)


def test_what_a_dataset_says_of_itself(store):
    write(store)
    samples = opened(store, class_names=None)
    assert samples.class_names == ("0", "1", "2")
    assert (samples.statement, samples.not_private_reasons) == ({"epsilon": 1.0}, ())
    assert repr(samples) == f"SampleDataset(9 images, 3 classes, dp, {store.uri!r})"


@pytest.fixture
def hugging_face(monkeypatch) -> None:
    """Stands for the package datasets: what it is called with comes back."""
    package = SimpleNamespace(
        Image=lambda: "Image",
        ClassLabel=lambda names: ("ClassLabel", tuple(names)),
        Value=lambda kind: ("Value", kind),
        Features=dict,
        Dataset=SimpleNamespace(
            from_dict=lambda columns, features: SimpleNamespace(columns=columns, features=features)
        ),
    )
    monkeypatch.setitem(sys.modules, "datasets", package)


@pytest.mark.parametrize("channels", [1, 3])
def test_hugging_face_gets_images_and_named_classes(store, hugging_face, channels):
    write(store, channels=channels)
    made = opened(store).to_hugging_face()
    assert made.features == {"image": "Image", "label": ("ClassLabel", ("ant", "bee", "cat"))}
    assert made.columns["label"] == [i % 3 for i in range(9)]
    for encoded, expected in zip(made.columns["image"], pixels(channels), strict=True):
        image = np.asarray(Image.open(io.BytesIO(encoded["bytes"])))
        np.testing.assert_array_equal(image[None] if channels == 1 else image.transpose(2, 0, 1), expected)


def test_hugging_face_gets_plain_numbers_where_there_are_no_classes(store, hugging_face):
    write(store, labels=np.full(9, -1))
    made = opened(store, num_classes=0, class_names=None).to_hugging_face()
    assert made.features["label"] == ("Value", "int64")


def test_without_the_package_of_hugging_face_the_line_says_what_to_install(store, monkeypatch):
    write(store)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        opened(store).to_hugging_face()
