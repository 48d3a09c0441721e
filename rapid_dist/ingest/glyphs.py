"""Public images of characters: the fonts that ship inside matplotlib, drawn as if by an unsteady hand."""

from __future__ import annotations

import functools
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from rapid_dist.errors import SpecError

# Fonts whose code points for letters and digits draw something else.
_SYMBOL_FONTS = {
    "LastResortHE-Regular.ttf": "draws one box for every character",
    "cmex10.ttf": "has large delimiters in the places of the letters",
    "cmsy10.ttf": "has mathematical symbols in the places of the digits",
}
_FONT_PIXELS = 96
_ABSENT_CHARACTER = "\U0010fffd"
_ELASTIC_KNOTS = 5


def render_glyphs(characters: str, *, num_per_class: int, image_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws each character num_per_class times, white on black, filling the height of the image.

    Every image has its own random font, slant, rotation, width, stroke thickness and smooth elastic
    distortion (Simard et al. 2003, "Best practices for convolutional neural networks"), from a generator
    addressed by (seed, class, index): image i of class c is the same however many are drawn.

    Public knowledge only: the ranges are common sense about handwriting and are fitted to no private
    image. What is shared with the demo's digits is their published form: upright, light on dark, scaled to
    fill the box. Keep it so: a range tuned on private images would make these images private.

    Returns images (N, 1, image_size, image_size) uint8 and labels (N,) int32, class by class,
    N = len(characters) * num_per_class; label c is characters[c].

    Raises SpecError on repeated, missing or undrawable characters and on numbers out of range.
    """
    _check(characters, num_per_class, image_size, seed)
    fonts = {character: fonts_with(character) for character in characters}
    images = np.empty((len(characters), num_per_class, 1, image_size, image_size), np.uint8)
    for label, character in enumerate(characters):
        for index in range(num_per_class):
            rng = np.random.default_rng([seed, label, index])
            images[label, index, 0] = _draw_glyph(fonts[character], character, image_size, rng)
    labels = np.repeat(np.arange(len(characters), dtype=np.int32), num_per_class)
    return images.reshape(-1, 1, image_size, image_size), labels


@functools.cache
def fonts_with(character: str) -> tuple[str, ...]:
    """Sorted file names of the fonts that really contain a character.

    Raises SpecError when no font does.
    """
    names = sorted(name for name in os.listdir(_font_folder()) if name.endswith(".ttf"))
    fonts = tuple(n for n in names if n not in _SYMBOL_FONTS and _contains(n, character))
    if not fonts:
        raise SpecError(f"no text font has the character {character!r}; choose letters or digits")
    return fonts


@functools.cache
def _font_folder() -> str:
    import matplotlib

    return os.path.join(matplotlib.get_data_path(), "fonts", "ttf")


def _check(characters: str, num_per_class: int, image_size: int, seed: int) -> None:
    if not characters or len(set(characters)) != len(characters):
        raise SpecError(f"glyph characters are {characters!r}; expected one or more, each once")
    if num_per_class < 1:
        raise SpecError(f"num_per_class is {num_per_class}; expected at least 1")
    if not 0 <= seed < 2**32:
        raise SpecError(f"glyph seed is {seed}; expected 0 to 2**32 - 1")
    if not 8 <= image_size <= 64:
        raise SpecError(f"glyph image_size is {image_size}; expected 8 to 64")


def _contains(font_name: str, character: str) -> bool:
    """Whether a font draws a character as something, and not as what it draws for an absent one."""
    font = _font(font_name)
    drawn = font.getmask(character, mode="L")
    absent = font.getmask(_ABSENT_CHARACTER, mode="L")
    if drawn.getbbox() is None:
        return False
    return (drawn.size, bytes(drawn)) != (absent.size, bytes(absent))


@functools.cache
def _font(font_name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(os.path.join(_font_folder(), font_name), _FONT_PIXELS)


@functools.lru_cache(maxsize=4096)
def _distance_to_stroke(font_name: str, character: str, canvas: int) -> np.ndarray:
    """Signed distance of each pixel to the stroke's edge, negative inside; (canvas, canvas) float32, pixels.

    The glyph is centred and 0.6 of the canvas high (or wide, when it is wider than high).
    """
    font = _font(font_name)
    left, top, right, bottom = font.getbbox(character)
    drawing = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(drawing).text((4 - left, 4 - top), character, font=font, fill=255)
    drawing = drawing.crop(drawing.getbbox())
    scale = 0.6 * canvas / max(drawing.size)
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    glyph = Image.new("L", (canvas, canvas))
    glyph.paste(drawing.resize(size, Image.Resampling.BOX), ((canvas - size[0]) // 2, (canvas - size[1]) // 2))
    is_stroke = np.asarray(glyph) > 127
    outside, inside = ndimage.distance_transform_edt(~is_stroke), ndimage.distance_transform_edt(is_stroke)
    return (outside - inside).astype(np.float32)


def _draw_glyph(fonts: tuple[str, ...], character: str, image_size: int, rng: np.random.Generator) -> np.ndarray:
    """One glyph, (image_size, image_size) uint8: warp the distance field, cut it at a stroke width, fit."""
    canvas = image_size * max(4, 64 // image_size)
    distance = _distance_to_stroke(fonts[rng.integers(len(fonts))], character, canvas)
    # Strokes of about one to two and a half pixels of an 8 x 8 image: thinner ones would fade to grey.
    half_width = canvas * rng.uniform(0.04, 0.08)
    thinnest = -distance.min()
    # A font that is already bold is thinned a little only: its hairlines would break.
    growth = max(half_width - thinnest, -0.15 * thinnest)
    warped = ndimage.map_coordinates(distance, _source_positions(canvas, rng), order=1, mode="nearest")
    stroke = np.clip(0.5 + growth - warped, 0.0, 1.0)
    return _fit(stroke, image_size)


def _source_positions(canvas: int, rng: np.random.Generator) -> np.ndarray:
    """Where each pixel of the warped glyph is read from: an affine map plus a smooth random field.

    Returns (2, canvas, canvas) float64 of (row, column).
    """
    angle, slant = np.radians(rng.uniform(-12, 12)), rng.uniform(-0.2, 0.25)
    width = rng.uniform(0.75, 1.2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = rotation @ np.array([[1.0, 0.0], [-slant, width]])
    offsets = np.arange(canvas) - (canvas - 1) / 2
    grid = np.stack(np.meshgrid(offsets, offsets, indexing="ij"))
    affine = np.tensordot(np.linalg.inv(forward), grid, axes=1)
    smoothing = _smoothing_matrix(canvas)
    knots = rng.normal(0.0, 0.045 * canvas, (2, _ELASTIC_KNOTS, _ELASTIC_KNOTS))
    return affine + smoothing @ knots @ smoothing.T + (canvas - 1) / 2


@functools.lru_cache(maxsize=16)
def _smoothing_matrix(canvas: int) -> np.ndarray:
    """Gaussian weights from a row of random knots to a row of pixels; (canvas, knots), rows sum to 1."""
    spacing = (canvas - 1) / (_ELASTIC_KNOTS - 1)
    distance = np.arange(canvas)[:, None] - spacing * np.arange(_ELASTIC_KNOTS)[None, :]
    weights = np.exp(-0.5 * (distance / (0.6 * spacing)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def _fit(stroke: np.ndarray, image_size: int) -> np.ndarray:
    """Crops to the glyph and area-averages it to the image: full height, centred, squeezed if too wide."""
    rows, columns = np.flatnonzero(stroke.max(1) > 0.5), np.flatnonzero(stroke.max(0) > 0.5)
    top, bottom = rows[0], rows[-1] + 1
    height, width = bottom - top, max(bottom - top, columns[-1] + 1 - columns[0])
    left = (columns[0] + columns[-1] + 1 - width) / 2
    padding = len(stroke)
    padded = np.pad(stroke, ((0, 0), (padding, padding)))
    image = Image.fromarray(np.rint(padded * 255).astype(np.uint8))
    box = (left + padding, top, left + padding + width, top + height)
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BOX, box=box))
