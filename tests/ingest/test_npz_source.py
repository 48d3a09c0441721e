"""NumPy archives: every layout and name, row ranges, and nothing is ever unpickled."""

import numpy as np
import pytest

from rapid_dist.errors import InputError
from rapid_dist.ingest import units
from rapid_dist.ingest.sources import discover
from rapid_dist.ingest.units import row_ranges


def write(path, *, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return str(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("image", "label")])
def test_images_and_labels_are_found_under_their_usual_names(tmp_path, pixels, decode_all, names, compressed):
    arrays = dict(zip(names, (pixels, np.arange(6)), strict=True))
    source = discover(write(tmp_path / "a.npz", compressed=compressed, **arrays))
    decoded = decode_all(source)
    assert source.is_labelled
    np.testing.assert_array_equal(decoded["image"], pixels[:, None])
    np.testing.assert_array_equal(decoded["label"], np.arange(6))


@pytest.mark.parametrize("order", ["C", "F"])
def test_every_layout_gives_channels_first_whatever_the_memory_order(tmp_path, decode_all, monkeypatch, order):
    monkeypatch.setattr(units, "row_ranges", lambda num_rows: row_ranges(num_rows, 2))
    colour = np.random.default_rng(1).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    layouts = {
        "first": (colour, colour),
        "last": (colour.transpose(0, 2, 3, 1), colour),
        "none": (colour[:, 0], colour[:, :1]),
        "one first": (colour[:, :1], colour[:, :1]),
        "one last": (colour[:, 0, :, :, None], colour[:, :1]),
        "float": (colour / 255, colour),
    }
    for name, (stored, expected) in layouts.items():
        uri = write(tmp_path / f"{name}.npz", images=np.array(stored, order=order))
        np.testing.assert_array_equal(decode_all(discover(uri))["image"], expected, err_msg=name)


def test_text_labels_are_looked_up_in_the_class_names(tmp_path, pixels, decode_all):
    uri = write(tmp_path / "a.npz", x=pixels, y=np.array(["dog", "cat"] * 3))
    with pytest.raises(InputError, match=r"text labels but no class names"):
        discover(uri)
    assert decode_all(discover(uri, class_names=("cat", "dog")))["label"].tolist() == [1, 0] * 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.zeros((2, 8, 8))}, r"holds arrays \['data'\]; expected the images in one of"),
        ({"x": np.zeros((2, 64))}, r"'x' of shape \(2, 64\); expected \(N, height, width\)"),
        ({"x": np.zeros((2, 8, 8, 5))}, r"shape \(2, 8, 8, 5\).*1, 3 or 4 channels"),
        ({"x": np.zeros((2, 8, 8), bool)}, "type bool; expected uint8, or floats"),
        ({"x": np.zeros((2, 8, 8)), "y": np.zeros((2, 2), int)}, r"'y' of shape \(2, 2\); expected \(2,\)"),
        ({"x": np.zeros((2, 8, 8)), "y": np.zeros(2)}, "type float64; expected integers or text"),
        ({"x": np.zeros((0, 8, 8))}, "holds no images"),
    ],
)
def test_arrays_that_are_not_images_are_refused_at_discovery(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        discover(write(tmp_path / "a.npz", **arrays))


class Trap:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_pickled_arrays_are_refused_and_never_loaded(tmp_path):
    uri = write(tmp_path / "a.npz", images=np.array([Trap()], dtype=object))
    with pytest.raises(InputError, match="Python objects, which are never unpickled"):
        discover(uri)


def test_a_damaged_archive_is_named(tmp_path, pixels):
    path = tmp_path / "a.npz"
    write(path, images=pixels)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"a\.npz is not a readable \.npz file"):
        discover(str(path))
