"""Decoding a unit: corrupt images are named or skipped without moving an id, and shapes must agree."""

import dataclasses

import numpy as np
import pytest

from rapid_dist.errors import InputError, SpecError
from rapid_dist.ingest.decode import decode_unit, mixed_shapes_error
from rapid_dist.ingest.sources import discover
from rapid_dist.specs.reading import ReadingSpec


def folder_unit(folder, contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return discover(str(folder)).units[0]


def decode(unit, *, image_size=None, num_channels=None, skip_corrupt=False):
    return decode_unit(unit, image_size=image_size, num_channels=num_channels, skip_corrupt=skip_corrupt)


def test_a_corrupt_image_is_named_with_the_way_out(tmp_path, pixels, encode):
    unit = folder_unit(tmp_path, {"a.png": encode(pixels[0]), "b.png": encode(pixels[1])[:-30]})
    with pytest.raises(InputError, match=r"b\.png is corrupt: it cannot be decoded.*--skip-corrupt skips and"):
        decode(unit)


def test_a_skipped_image_leaves_the_ids_and_labels_of_the_others(tmp_path, pixels, encode):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    contents = {"x/a.png": b"", "x/b.png": encode(pixels[1]), "y/c.png": b"?", "y/d.png": encode(pixels[3])}
    decoded = decode(folder_unit(tmp_path, contents), skip_corrupt=True)
    assert decoded.example_id.tolist() == [1, 3]
    assert decoded.label.tolist() == [0, 1]
    np.testing.assert_array_equal(decoded.image, pixels[[1, 3], None])
    assert [name.rsplit("/", 2)[1:] for name in decoded.corrupt] == [["x", "a.png"], ["y", "c.png"]]


def test_a_unit_of_corrupt_images_is_empty_with_the_asked_shape(tmp_path):
    decoded = decode(folder_unit(tmp_path, {"a.png": b""}), image_size=16, num_channels=3, skip_corrupt=True)
    assert decoded.image.shape == (0, 3, 16, 16)
    assert len(decoded.example_id) == len(decoded.label) == 0
    assert len(decoded.corrupt) == 1


def test_mixed_shapes_name_two_files_and_the_setting(tmp_path, pixels, encode):
    large = np.zeros((16, 16), np.uint8)
    unit = folder_unit(tmp_path, {"a.png": encode(pixels[0]), "b.png": encode(large)})
    with pytest.raises(InputError, match=r"a\.png is \(1, 8, 8\), .*b\.png is \(1, 16, 16\); set data\.image_size to"):
        decode(unit)
    assert decode(unit, image_size=8).image.shape == (2, 1, 8, 8)


def test_mixed_channels_name_the_channel_setting(tmp_path, pixels, encode):
    colour = np.zeros((8, 8, 3), np.uint8)
    unit = folder_unit(tmp_path, {"a.png": encode(pixels[0]), "b.png": encode(colour)})
    with pytest.raises(InputError, match=r"set data\.num_channels to make"):
        decode(unit)
    assert decode(unit, num_channels=3).image.shape == (2, 3, 8, 8)


def test_the_mixed_shapes_error_names_both_settings_when_both_differ():
    message = str(mixed_shapes_error("a", (1, 8, 8), "b", (3, 16, 16)))
    assert "set data.num_channels and data.image_size" in message


@pytest.mark.parametrize("shape", [(8, 9), (7, 7), (65, 65)])
def test_sizes_that_cannot_be_trained_on_need_image_size(tmp_path, encode, shape):
    unit = folder_unit(tmp_path, {"a.png": encode(np.zeros(shape, np.uint8))})
    with pytest.raises(InputError, match=rf"a\.png is {shape[0]} by {shape[1]} pixels.*set data\.image_size"):
        decode(unit)
    unit = dataclasses.replace(unit, reading=ReadingSpec(fit="stretch"))
    assert decode(unit, image_size=8).image.shape == (1, 1, 8, 8)


def test_settings_out_of_range_are_refused(tmp_path, pixels, encode):
    unit = folder_unit(tmp_path, {"a.png": encode(pixels[0])})
    for image_size in (7, 65):
        with pytest.raises(SpecError, match=r"data\.image_size is .*expected 8 to 64"):
            decode(unit, image_size=image_size)
    with pytest.raises(SpecError, match=r"data\.num_channels is 2; expected 1"):
        decode(unit, num_channels=2)


def test_a_file_that_went_away_is_an_error_even_when_skipping(tmp_path, pixels, encode):
    unit = folder_unit(tmp_path, {"a.png": encode(pixels[0])})
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png does not exist"):
        decode(unit, skip_corrupt=True)
