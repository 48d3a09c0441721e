"""One image, encoded or as an array, to (channels, height, width) bytes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from rapid_dist.errors import InputError

_CHANNELS = (1, 3, 4)
_WIDE_GREY_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_GREY_MODES = ("1", "L", "LA", "La")


class CorruptImageError(Exception):
    """This one image cannot be decoded; the message is the reason. Never leaves decoding."""


def to_pixels(payload: bytes | np.ndarray, *, image_size: int | None, num_channels: int | None) -> np.ndarray:
    """Decodes, flattens transparency over white, converts to grey or RGB, then resizes.

    payload: an encoded image, or (H, W), (H, W, C) or (C, H, W) integers in 0..255 or floats in [0, 1].
    image_size: side of the square it is stretched to, None keeps the native size.
    num_channels: 1 or 3, None keeps what the image is. Returns (C, H, W) uint8.

    Raises CorruptImageError when it cannot be decoded, InputError when an array has no image layout.
    """
    image = _from_array(payload) if isinstance(payload, np.ndarray) else _open(payload)
    image = _to_grey_or_rgb(image)
    if num_channels is not None:
        image = image.convert("L" if num_channels == 1 else "RGB")
    if image_size is not None:
        image = _resize(image, image_size)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def array_layout(shape: tuple[int, ...]) -> str:
    """Which axis of an image array holds the channels: "none", "last" or "first".

    Raises InputError when the shape is not an image with 1, 3 or 4 channels.
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


def _open(encoded: bytes) -> Image.Image:
    # A decoder meets arbitrary bytes and raises arbitrary errors; whatever it is, this image is corrupt.
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
    except Exception as error:
        raise CorruptImageError(f"cannot be decoded: {type(error).__name__}") from error
    return image


def _from_array(array: np.ndarray) -> Image.Image:
    layout = array_layout(array.shape)
    pixels = _to_bytes(array)
    if layout == "first":
        pixels = pixels.transpose(1, 2, 0)
    if layout != "none" and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _to_bytes(array: np.ndarray) -> np.ndarray:
    """Integers in 0..255 as they are, floats in [0, 1] times 255 and rounded; uint8 of the same shape."""
    if array.size == 0:
        raise CorruptImageError("has no pixels")
    if array.dtype == np.uint8:
        return array
    highest = 1 if array.dtype.kind == "f" else 255
    # A comparison with NaN is false, so this refuses NaN too.
    if not (array.min() >= 0 and array.max() <= highest):
        raise CorruptImageError(f"has values that are not from 0 to {highest} ({array.dtype})")
    return np.rint(array * 255).astype(np.uint8) if highest == 1 else array.astype(np.uint8)


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_GREY_MODES:
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise CorruptImageError("has grey levels that are not 16-bit")
        return Image.fromarray(np.rint(wide / 257).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(_to_bytes(np.asarray(image)))
    opaque_mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        return _over_white(image, opaque_mode)
    return image.convert(opaque_mode)


def _over_white(image: Image.Image, opaque_mode: str) -> Image.Image:
    layered = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layered).convert(opaque_mode)


def _resize(image: Image.Image, side: int) -> Image.Image:
    """Stretches to (side, side): area averages when both sides shrink, bicubic otherwise."""
    if image.size == (side, side):
        return image
    is_reducing = image.width >= side and image.height >= side
    return image.resize((side, side), Image.Resampling.BOX if is_reducing else Image.Resampling.BICUBIC)
