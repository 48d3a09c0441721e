"""One image to bytes: closed forms for every mode, the float rule, and resizing."""

import io

import numpy as np
import pytest
from PIL import Image

from rapid_dist.errors import InputError
from rapid_dist.ingest.pixels import CorruptImageError, array_layout, to_pixels


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def native(payload):
    return to_pixels(payload, image_size=None, num_channels=None)


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def test_grey_and_colour_come_back_exactly():
    np.testing.assert_array_equal(native(saved(Image.fromarray(RAMP))), RAMP[None])
    colour = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)
    np.testing.assert_array_equal(native(saved(Image.fromarray(colour))), colour.transpose(2, 0, 1))


def test_one_bit_images_are_black_and_white_grey():
    is_white = RAMP > 100
    np.testing.assert_array_equal(native(saved(Image.fromarray(is_white)))[0], is_white * 255)


def test_sixteen_bit_grey_keeps_its_high_byte_range():
    wide = RAMP.astype(np.uint16) * 257
    np.testing.assert_array_equal(native(saved(Image.fromarray(wide)))[0], RAMP)


def test_transparency_is_flattened_over_white():
    opaque_then_clear = np.zeros((8, 8, 4), np.uint8)
    opaque_then_clear[:4, :, 3] = 255
    image = native(saved(Image.fromarray(opaque_then_clear)))
    assert image.shape == (3, 8, 8)
    assert (image[:, :4] == 0).all()
    assert (image[:, 4:] == 255).all()
    grey = Image.new("LA", (8, 8), (0, 0))
    np.testing.assert_array_equal(native(saved(grey)), np.full((1, 8, 8), 255))


def test_a_transparent_grey_level_is_white_and_the_others_stay():
    image = native(saved(Image.fromarray(RAMP), transparency=0))
    expected = RAMP.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(image, expected[None])


def test_a_palette_becomes_colour():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert native(saved(image))[:, 0, 0].tolist() == [10, 20, 30]
    assert native(saved(image, transparency=1))[:, 0, 0].tolist() == [255, 255, 255]


def test_num_channels_converts_both_ways():
    grey = to_pixels(saved(Image.fromarray(RAMP)), image_size=None, num_channels=3)
    np.testing.assert_array_equal(grey, np.stack([RAMP] * 3))
    white = np.full((8, 8, 3), 255, np.uint8)
    assert (to_pixels(white, image_size=None, num_channels=1) == np.full((1, 8, 8), 255)).all()


def test_reducing_averages_areas_and_stretches_to_a_square():
    tall = np.repeat(np.repeat(RAMP, 4, axis=0), 2, axis=1)
    np.testing.assert_array_equal(to_pixels(tall, image_size=8, num_channels=None)[0], RAMP)


def test_enlarging_keeps_a_constant_image():
    flat = np.full((8, 8), 77, np.uint8)
    np.testing.assert_array_equal(to_pixels(flat, image_size=20, num_channels=None), np.full((1, 20, 20), 77))


def test_floats_are_scaled_by_255_and_rounded():
    np.testing.assert_array_equal(native(RAMP.astype(np.float32) / 255)[0], RAMP)
    np.testing.assert_array_equal(native(RAMP.astype(np.int64))[0], RAMP)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.01, 1.01])
def test_floats_outside_the_unit_interval_are_corrupt(bad):
    image = np.full((8, 8), 0.5)
    image[3, 3] = bad
    with pytest.raises(CorruptImageError, match="not from 0 to 1"):
        native(image)


@pytest.mark.parametrize("bad", [-1, 256])
def test_integers_that_are_no_bytes_are_corrupt(bad):
    with pytest.raises(CorruptImageError, match="not from 0 to 255"):
        native(np.full((8, 8), bad))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_truncated_empty_and_foreign_bytes_are_corrupt(kind):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), kind)
    for damaged in (whole[: len(whole) * 2 // 3], b"", b"not an image"):
        with pytest.raises(CorruptImageError, match="cannot be decoded"):
            native(damaged)


def test_the_layout_of_an_array_is_its_channel_axis():
    assert [array_layout(s) for s in [(8, 8), (8, 8, 3), (4, 8, 8)]] == ["none", "last", "first"]
    with pytest.raises(InputError, match=r"shape \(5, 8, 8\)"):
        array_layout((5, 8, 8))
