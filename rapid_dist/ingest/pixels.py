"""One image, encoded or as an array, to (channels, height, width) bytes, by rules that look at this image alone.

An image with two possible readings is refused with the setting that decides (rapid_dist/ingest/README.md):

>>> import numpy as np
>>> to_pixels(np.full((8, 8), 0.5), image_size=None, num_channels=None).shape
(1, 8, 8)
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rapid_dist.errors import InputError
from rapid_dist.specs.reading import ReadingSpec

_CHANNELS = (1, 3, 4)
_WIDE_GREY_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_GREY_MODES = ("1", "L", "LA", "La")
_BYTES, _UNIT = (0.0, 255.0), (0.0, 1.0)
# A phone's JPEG (MPO) keeps previews and depth maps behind the picture, which is always the first frame.
_FIRST_FRAME_ONLY = ("MPO",)


class CorruptImageError(Exception):
    """This one image cannot be decoded; the message is the reason. Never leaves decoding."""


def to_pixels(
    payload: bytes | np.ndarray,
    *,
    image_size: int | None,
    num_channels: int | None,
    reading: ReadingSpec | None = None,
) -> np.ndarray:
    """Decodes, turns upright, scales to bytes, flattens transparency, converts to grey or RGB, then resizes.

    Args:
        payload: An encoded image, or (H, W), (H, W, C) or (C, H, W) numbers with 1, 3 or 4 channels.
        image_size: Side of the square that it comes to, by reading.fit; None keeps the native size.
        num_channels: 1 or 3; None keeps what the image is.
        reading: What the owner states of the source; None states nothing.

    Returns:
        (C, H, W) uint8.

    Raises:
        CorruptImageError: It cannot be decoded.
        InputError: It has no image layout, or two readings and none is stated.
    """
    reading = reading or ReadingSpec()
    if isinstance(payload, np.ndarray):
        # Its numbers are bytes from here on: the range that is stated is that of the numbers before.
        image = _to_grey_or_rgb(_from_array(payload, reading), dataclasses.replace(reading, value_range=_BYTES))
    else:
        image = _to_grey_or_rgb(_open(payload, reading), reading)
    if num_channels is not None:
        image = image.convert("L" if num_channels == 1 else "RGB")
    if image_size is not None:
        image = _resize(image, image_size, reading.fit)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def array_layout(shape: tuple[int, ...]) -> str:
    """Returns which axis of an image array holds the channels: "none", "last" or "first".

    Raises:
        InputError: The shape is not an image with 1, 3 or 4 channels.
    """
    if len(shape) == 2:
        return "none"
    if len(shape) == 3 and shape[2] in _CHANNELS:
        return "last"
    if len(shape) == 3 and shape[0] in _CHANNELS:
        return "first"
    raise InputError(
        f"an image array has shape {shape}; expected (height, width), (height, width, channels) "
        "or (channels, height, width) with 1, 3 or 4 channels"
    )


def _open(encoded: bytes, reading: ReadingSpec) -> Image.Image:
    # A decoder meets arbitrary bytes and raises arbitrary errors; whatever it is, this image is corrupt.
    try:
        image = Image.open(io.BytesIO(encoded))
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in _FIRST_FRAME_ONLY:
            image.seek(_stated_frame(frames, reading.frame))
        image.load()
        return ImageOps.exif_transpose(image)
    except InputError:
        raise
    except Exception as error:
        raise CorruptImageError(f"cannot be decoded: {type(error).__name__}") from error


def _stated_frame(frames: int, frame: int | None) -> int:
    if frame is None:
        raise InputError(f"it has {frames} frames or pages; state which one is the image, such as frame: 0 (--frame 0)")
    if frame >= frames:
        raise InputError(f"it has {frames} frames or pages, counted from 0; frame is {frame}")
    return frame


def _from_array(array: np.ndarray, reading: ReadingSpec) -> Image.Image:
    layout = array_layout(array.shape)
    if array.size == 0:
        raise CorruptImageError("has no pixels")
    if layout == "first":
        array = array.transpose(1, 2, 0)
    if layout != "none" and array.shape[2] == 1:
        array = array[:, :, 0]
    has_alpha = array.ndim == 3 and array.shape[2] == 4
    colour = _to_bytes(array[:, :, :3] if has_alpha else array, reading.value_range)
    if has_alpha:  # opacity has no black and white: it is read as always
        colour = np.concatenate([colour, _to_bytes(array[:, :, 3:], None)], axis=2)
    return Image.fromarray(np.ascontiguousarray(colour))


def _to_bytes(array: np.ndarray, value_range: tuple[float, ...] | None) -> np.ndarray:
    """Returns uint8 of the same shape: black and white of value_range become 0 and 255, between is rounded.

    value_range: None takes 0 and 1 for floats, 0 and 255 for integers.
    """
    if array.dtype == np.uint8 and value_range in (None, _BYTES):
        return array if value_range else _no_mask(array)
    black, white = value_range or (_UNIT if array.dtype.kind == "f" else _BYTES)
    least, most = array.min(), array.max()
    if not (np.isfinite(least) and np.isfinite(most)):
        raise CorruptImageError("has values that are not numbers, or infinite")
    if not (least >= black and most <= white):
        raise InputError(
            f"it has values from {least:g} to {most:g} ({array.dtype}), outside {black:g} to {white:g}; state which "
            "values stand for black and white in all images of the source, such as value_range: [0, 4095] "
            "(--value-range 0,4095), or convert them to bytes"
        )
    # Whole numbers from 0 to 255 must come back as they are, so the quotient is taken last.
    return np.rint((array.astype(np.float64) - black) * 255 / (white - black)).astype(np.uint8)


def _no_mask(pixels: np.ndarray) -> np.ndarray:
    """Returns bytes as they are. Raises InputError where the brightest is 1 of 255, as in a mask from 0 to 1."""
    if pixels.max() == 1:
        raise InputError(
            "it has no pixel above 1 of 255, as a mask from 0 to 1 has; state what stands for black and white in all "
            "images of the source: value_range: [0, 1] (--value-range 0,1), or [0, 255] if it really is that dark"
        )
    return pixels


def _to_grey_or_rgb(image: Image.Image, reading: ReadingSpec) -> Image.Image:
    if image.mode in _WIDE_GREY_MODES:
        return _wide_to_grey(np.asarray(image), reading.value_range)
    opaque_mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        return _over_background(image, opaque_mode, reading)
    grey_or_rgb = image.convert(opaque_mode)
    return grey_or_rgb if image.mode == "1" else _rescaled(grey_or_rgb, reading)  # one bit is black or white


def _wide_to_grey(levels: np.ndarray, value_range: tuple[float, ...] | None) -> Image.Image:
    """Returns the byte image of grey levels of 16 bits or more, whose white no file states reliably."""
    if value_range is None and levels.dtype.kind != "f":
        raise InputError(
            f"it is a grey image of 16 bits with values from {levels.min()} to {levels.max()}; state what stands for "
            "black and white in all images of the source: value_range: [0, 65535] for the full range, [0, 4095] for 12 "
            "bits (--value-range 0,65535)"
        )
    return Image.fromarray(_to_bytes(levels, value_range))


def _rescaled(image: Image.Image, reading: ReadingSpec) -> Image.Image:
    if reading.value_range is None:
        _no_mask(np.asarray(image))
        return image
    if reading.value_range == _BYTES:
        return image
    return Image.fromarray(_to_bytes(np.asarray(image), reading.value_range))


def _over_background(image: Image.Image, opaque_mode: str, reading: ReadingSpec) -> Image.Image:
    layered: Any = image.convert("RGBA")
    alpha = np.asarray(layered)[:, :, 3]
    colour = _rescaled(layered.convert("RGB"), reading).convert("RGBA")
    colour.putalpha(layered.getchannel("A"))
    level = 0 if reading.background == "black" else 255
    flat = Image.alpha_composite(Image.new("RGBA", image.size, (level, level, level, 255)), colour).convert(opaque_mode)
    if reading.background is None and alpha.min() < alpha.max() and np.ptp(np.asarray(flat)) == 0:
        raise InputError(
            "it is partly transparent and becomes one level over white; state background: black (--background black), "
            "or white where that is right"
        )
    return flat


def _resize(image: Image.Image, side: int, fit: str | None) -> Image.Image:
    """Brings an image to (side, side): area averages when both sides shrink, bicubic otherwise."""
    if image.width != image.height:
        image = _squared(image, fit)
    if image.size == (side, side):
        return image
    is_reducing = image.width >= side and image.height >= side
    return image.resize((side, side), Image.Resampling.BOX if is_reducing else Image.Resampling.BICUBIC)


def _squared(image: Image.Image, fit: str | None) -> Image.Image:
    width, height = image.size
    if fit is None:
        raise InputError(
            f"it is {width} by {height} pixels; state how images that are not square become square: fit: crop, pad or "
            "stretch (--fit crop)"
        )
    if fit == "stretch":
        return image
    side = min(width, height) if fit == "crop" else max(width, height)
    left, top = (width - side) // 2, (height - side) // 2  # below 0 for pad: crop then adds black
    return image.crop((left, top, left + side, top + side))
