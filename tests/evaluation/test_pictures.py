import io

import numpy as np
import pytest
from PIL import Image

from rapid_dist.errors import InputError
from rapid_dist.evaluation.pictures import image_grid


def draw_images(num, seed=0, channels=1, size=8):
    return np.random.default_rng(seed).integers(0, 256, (num, channels, size, size), dtype=np.uint8)


def open_png(data):
    return Image.open(io.BytesIO(data))


def test_pixels_are_repeated_exactly_in_their_cells():
    images = draw_images(3)
    sheet = np.asarray(open_png(image_grid([("", images)], scale=4)))
    for k, image in enumerate(images):
        left = 8 + k * (32 + 2)
        cell = sheet[8 : 8 + 32, left : left + 32]
        np.testing.assert_array_equal(cell, np.kron(image[0], np.ones((4, 4), np.uint8)))
    assert sheet.shape == (8 + 32 + 8, 8 + 3 * 34 - 2 + 8)


def test_labels_are_drawn_left_of_the_images():
    images = np.full((1, 1, 8, 8), 255, np.uint8)
    bare, labelled = (np.asarray(open_png(image_grid([(t, images)], scale=4))) for t in ("", "digit 7"))
    assert bare.min() == 255
    assert labelled.min() < 64
    assert labelled[:, -40:].min() == 255


def test_grey_sheets_stay_grey_and_one_colour_row_makes_them_rgb():
    grey, colour = draw_images(2), draw_images(2, channels=3)
    assert open_png(image_grid([("a", grey)], scale=1)).mode == "L"
    mixed = open_png(image_grid([("", grey), ("", colour)], scale=4))
    assert mixed.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(mixed)[8 + 34 : 8 + 66 : 4, 8:40:4], colour[0].transpose(1, 2, 0))


def test_rows_may_be_of_different_length_or_empty_and_bytes_repeat():
    rows = [("many", draw_images(5)), ("one", draw_images(1)), ("none", draw_images(3)[:0])]
    assert image_grid(rows, scale=2) == image_grid(rows, scale=2)


def test_sheets_without_images_or_with_two_sizes_are_refused():
    with pytest.raises(InputError, match="without any image"):
        image_grid([("none", draw_images(1)[:0])], scale=2)
    with pytest.raises(InputError, match="one size"):
        image_grid([("a", draw_images(1)), ("b", draw_images(1, size=9))], scale=2)
