"""Glyphs: a pure function of the seed, classes that can be told apart, and the promised form."""

import numpy as np
import pytest

from rapid_dist.errors import SpecError
from rapid_dist.ingest.glyphs import fonts_with, render_glyphs


def test_shapes_labels_and_the_promised_form():
    images, labels = render_glyphs("07A", num_per_class=20, image_size=8, seed=0)
    assert images.shape == (60, 1, 8, 8)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], 20))
    assert images.mean() < 128, "strokes are light on dark"
    assert (images[:, 0, [0, -1]].max(axis=2) > 0).all(), "a glyph fills the height"
    is_upper_bar = images[labels == 1, 0, :3].sum(axis=(1, 2)) > images[labels == 1, 0, 5:].sum(axis=(1, 2))
    assert is_upper_bar.mean() > 0.8, "a 7 is upright: its bar is at the top"


def test_an_image_is_addressed_by_seed_class_and_index_alone():
    few, _ = render_glyphs("01", num_per_class=2, image_size=8, seed=3)
    many, _ = render_glyphs("012", num_per_class=5, image_size=8, seed=3)
    np.testing.assert_array_equal(few, many.reshape(3, 5, 1, 8, 8)[:2, :2].reshape(4, 1, 8, 8))
    other, _ = render_glyphs("01", num_per_class=2, image_size=8, seed=4)
    assert (few != other).any(axis=(1, 2, 3)).all()


def test_glyphs_of_a_class_differ():
    images, _ = render_glyphs("3", num_per_class=40, image_size=8, seed=0)
    assert len(np.unique(images.reshape(40, -1), axis=0)) == 40


def test_the_nearest_class_mean_of_half_the_glyphs_classifies_the_other_half():
    images, _ = render_glyphs("0123456789", num_per_class=40, image_size=8, seed=0)
    rows = images.reshape(10, 40, 64).astype(np.float64)
    means = rows[:, :20].mean(axis=1)
    held_out = rows[:, 20:].reshape(-1, 64)
    nearest = ((held_out[:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == np.repeat(np.arange(10), 20)).mean() > 0.6


@pytest.mark.parametrize("image_size", [17, 64])
def test_other_sizes_fill_the_box_too(image_size):
    images, _ = render_glyphs("WI", num_per_class=1, image_size=image_size, seed=0)
    assert images.shape[2:] == (image_size, image_size)
    assert (images[:, 0, [0, -1]].max(axis=2) > 0).all()


def test_only_fonts_that_draw_the_character_are_used():
    fonts = fonts_with("5")
    assert {"DejaVuSans.ttf", "STIXGeneral.ttf", "cmr10.ttf"} <= set(fonts)
    assert not {"cmsy10.ttf", "cmex10.ttf", "LastResortHE-Regular.ttf", "STIXNonUni.ttf"} & set(fonts)
    assert "cmr10.ttf" not in fonts_with("Ж")
    with pytest.raises(SpecError, match="no text font has the character"):
        fonts_with("\u4e00")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"characters": ""}, "expected one or more, each once"),
        ({"characters": "aba"}, "expected one or more, each once"),
        ({"num_per_class": 0}, "num_per_class is 0"),
        ({"image_size": 7}, "expected 8 to 64"),
        ({"seed": -1}, "seed is -1"),
        ({"characters": " "}, "choose letters or digits"),
    ],
)
def test_settings_out_of_range_are_refused(changed, message):
    settings = {"characters": "a", "num_per_class": 1, "image_size": 8, "seed": 0, **changed}
    characters = settings.pop("characters")
    with pytest.raises(SpecError, match=message):
        render_glyphs(characters, **settings)
