"""One image to bytes: closed forms for every mode, the float rule, and resizing."""

import io

import numpy as np
import pytest
from PIL import Image

from rapid_dist.errors import InputError
from rapid_dist.ingest.pixels import CorruptImageError, array_layout, to_pixels
from rapid_dist.specs.reading import ReadingSpec


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def native(payload):
    return to_pixels(payload, image_size=None, num_channels=None)


def read(payload, *, image_size=None, num_channels=None, **reading):
    return to_pixels(payload, image_size=image_size, num_channels=num_channels, reading=ReadingSpec(**reading))


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def test_grey_and_colour_come_back_exactly():
    np.testing.assert_array_equal(native(saved(Image.fromarray(RAMP))), RAMP[None])
    colour = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)
    np.testing.assert_array_equal(native(saved(Image.fromarray(colour))), colour.transpose(2, 0, 1))


def test_one_bit_images_are_black_and_white_grey():
    is_white = RAMP > 100
    np.testing.assert_array_equal(native(saved(Image.fromarray(is_white)))[0], is_white * 255)


def test_sixteen_bit_grey_needs_its_white_stated():
    wide = saved(Image.fromarray(RAMP.astype(np.uint16) * 257))
    with pytest.raises(InputError, match=r"16 bits with values from 0 to 64764.*value_range"):
        native(wide)
    np.testing.assert_array_equal(read(wide, value_range=(0, 65535))[0], RAMP)
    twelve_bits = saved(Image.fromarray(RAMP.astype(np.uint16) * 16))
    np.testing.assert_array_equal(read(twelve_bits, value_range=(0, 4080))[0], RAMP)
    with pytest.raises(InputError, match="outside 0 to 4095"):
        read(wide, value_range=(0, 4095))


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


def test_an_image_that_is_not_square_is_fitted_as_stated():
    tall = np.repeat(np.repeat(RAMP, 4, axis=0), 2, axis=1)
    with pytest.raises(InputError, match=r"16 by 32 pixels.*fit: crop, pad or stretch"):
        to_pixels(tall, image_size=8, num_channels=None)
    np.testing.assert_array_equal(read(tall, image_size=8, fit="stretch")[0], RAMP)
    np.testing.assert_array_equal(read(tall, image_size=16, fit="crop")[0], tall[8:24])
    padded = read(tall, image_size=32, fit="pad")[0]
    np.testing.assert_array_equal(padded[:, 8:24], tall)
    assert (padded[:, :8] == 0).all()
    assert (padded[:, 24:] == 0).all()


def test_a_photo_lies_as_its_camera_was_held():
    upright = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)
    sideways = Image.fromarray(np.rot90(upright).copy())
    exif = sideways.getexif()
    exif[0x0112] = 6  # the camera was turned: the viewer has to turn the picture by 90 degrees clockwise
    np.testing.assert_array_equal(native(saved(sideways, exif=exif)), upright.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG"])
def test_of_several_frames_the_stated_one_is_the_image(kind):
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (0, 100, 200)]
    encoded = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"3 frames or pages.*frame: 0"):
        native(encoded)
    assert [int(read(encoded, frame=k, num_channels=1)[0, 0, 0]) for k in range(3)] == [0, 100, 200]
    with pytest.raises(InputError, match="frame is 3"):
        read(encoded, frame=3)


def test_white_on_clear_needs_its_background_stated():
    drawing = np.full((8, 8, 4), 255, np.uint8)
    drawing[2:6, :, 3] = 0
    encoded = saved(Image.fromarray(drawing))
    with pytest.raises(InputError, match=r"one level over white.*background: black"):
        native(encoded)
    on_black = read(encoded, background="black")
    assert (on_black[:, 2:6] == 0).all()
    assert (on_black[:, :2] == 255).all()
    assert (read(encoded, background="white") == 255).all()


def test_a_mask_is_refused_by_itself_and_black_is_an_image():
    mask = (RAMP > 100).astype(np.uint8)
    for payload in (mask, np.stack([mask] * 3, axis=-1), saved(Image.fromarray(mask))):
        with pytest.raises(InputError, match=r"no pixel above 1 of 255"):
            native(payload)
    assert not native(np.zeros((8, 8), np.uint8)).any()
    assert native((RAMP > 100) * 2.0 / 255).max() == 2
    np.testing.assert_array_equal(read(saved(Image.fromarray(mask)), value_range=(0, 1))[0], mask * 255)
    np.testing.assert_array_equal(read(saved(Image.fromarray(mask)), value_range=(0, 255))[0], mask)


@pytest.mark.parametrize(
    ("array", "value_range"),
    [
        (RAMP.astype(np.float32), (0, 255)),
        (RAMP.astype(np.float64) / 127.5 - 1, (-1, 1)),
        (RAMP.astype(np.uint16) * 16, (0, 4080)),
        ((RAMP > 100).astype(np.uint8), (0, 1)),
    ],
)
def test_numbers_between_the_stated_black_and_white_become_bytes(array, value_range):
    expected = (RAMP > 100) * 255 if value_range == (0, 1) else RAMP
    np.testing.assert_array_equal(read(array, value_range=value_range)[0], expected)
    colour = np.stack([array] * 3, axis=-1)
    np.testing.assert_array_equal(read(colour, value_range=value_range), np.stack([expected] * 3))


def test_enlarging_keeps_a_constant_image():
    flat = np.full((8, 8), 77, np.uint8)
    np.testing.assert_array_equal(to_pixels(flat, image_size=20, num_channels=None), np.full((1, 20, 20), 77))


def test_floats_are_scaled_by_255_and_rounded():
    np.testing.assert_array_equal(native(RAMP.astype(np.float32) / 255)[0], RAMP)
    np.testing.assert_array_equal(native(RAMP.astype(np.int64))[0], RAMP)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_corrupt(bad):
    image = np.full((8, 8), 0.5)
    image[3, 3] = bad
    with pytest.raises(CorruptImageError):
        native(image)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((8, 8), -0.01), "outside 0 to 1"),
        (np.full((8, 8), 1.01), "outside 0 to 1"),
        (np.full((8, 8), -1), "outside 0 to 255"),
        (np.full((8, 8), 256), "outside 0 to 255"),
    ],
)
def test_numbers_of_another_range_are_no_damage_but_ask_for_the_range(image, words):
    with pytest.raises(InputError, match=rf"{words}.*value_range"):
        native(image)


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
