"""The embedded data: three ordinary sources, a fixed split, written once."""

import hashlib
import os

import numpy as np
import pytest
from sklearn.datasets import load_digits

from rapid_dist.ingest.embedded import write_embedded_sources
from rapid_dist.ingest.sources import discover


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    write_embedded_sources(folder)
    return folder


def test_the_files_enter_by_the_ordinary_road_with_their_sizes(folder, decode_all):
    sources = write_embedded_sources(folder)
    for uri, expected in ((sources.private, 1297), (sources.test, 500), (sources.public, 6000)):
        decoded = decode_all(discover(uri, class_names=tuple("0123456789")))
        assert decoded["image"].shape == (expected, 1, 8, 8)
        assert set(decoded["label"].tolist()) == set(range(10))
        assert decoded["image"].max() == 255


def test_private_and_test_are_a_stratified_partition_of_the_digits(folder):
    private, test = np.load(folder / "private.npz"), np.load(folder / "test.npz")
    joined = np.concatenate([private["images"], test["images"]]).reshape(-1, 64)
    whole = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    np.testing.assert_array_equal(joined[np.lexsort(joined.T)], whole[np.lexsort(whole.T)])
    share = np.bincount(test["labels"]) / np.bincount(load_digits().target)
    np.testing.assert_allclose(share, 500 / 1797, atol=0.01)


def test_the_glyphs_are_those_of_the_measured_demo_whatever_fonts_are_installed(folder):
    with np.load(folder / "public.npz") as glyphs:
        images, labels = glyphs["images"], glyphs["labels"]
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert digest == "c3dba7407205acefcf822c37dcd3fac973c7ebbf2c7f063c2fe248f25d572480"
    assert (images.shape, images.dtype, labels.dtype) == ((6000, 8, 8), np.uint8, np.int32)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 600))


def test_the_same_call_gives_the_same_bytes_and_does_not_write_again(folder, tmp_path):
    write_embedded_sources(tmp_path)
    for name in ("private.npz", "test.npz", "public.npz"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
        os.utime(tmp_path / name, (1, 1))
    write_embedded_sources(tmp_path)
    assert {path.stat().st_mtime for path in tmp_path.iterdir()} == {1}
    assert len(list(tmp_path.iterdir())) == 3


def test_an_absent_file_is_written_again_beside_the_others(tmp_path):
    write_embedded_sources(tmp_path)
    before = (tmp_path / "test.npz").read_bytes()
    (tmp_path / "test.npz").unlink()
    write_embedded_sources(tmp_path)
    assert (tmp_path / "test.npz").read_bytes() == before
