"""A unit of a source to arrays: the only way by which images enter the project."""

from __future__ import annotations

import dataclasses

import numpy as np

from rapid_dist.errors import InputError, SpecError
from rapid_dist.ingest.folder import read_folder_unit
from rapid_dist.ingest.idx import read_idx_unit
from rapid_dist.ingest.npz import read_npz_unit
from rapid_dist.ingest.parquet import read_parquet_unit
from rapid_dist.ingest.pixels import CorruptImageError, to_pixels
from rapid_dist.ingest.units import SourceUnit
from rapid_dist.specs.reading import ReadingSpec

MIN_IMAGE_SIZE = 8
MAX_IMAGE_SIZE = 64

_READERS = {
    "class_folders": read_folder_unit,
    "flat_folder": read_folder_unit,
    "listed": read_folder_unit,
    "idx": read_idx_unit,
    "npz": read_npz_unit,
    "parquet": read_parquet_unit,
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DecodedUnit:
    """The records of one unit, in id order.

    example_id: (N,) int64; image: (N, C, H, W) uint8; label: (N,) int32, -1 where there is none.
    corrupt: names of the images left out; as private as the records, and so is their number.
    With every image left out N is 0, and C, H, W are what was asked for, or 0 where nothing was.
    """

    example_id: np.ndarray
    image: np.ndarray
    label: np.ndarray
    corrupt: tuple[str, ...]


def decode_unit(
    unit: SourceUnit,
    *,
    image_size: int | None,
    num_channels: int | None,
    skip_corrupt: bool,
    expected_shape: tuple[int, int, int] | None = None,
) -> DecodedUnit:
    """Reads and decodes one unit; a skipped image's id stays missing, so the other ids do not move.

    image_size: None keeps the native size, which must then be square. num_channels: 1 or 3, None keeps it.
    expected_shape: the (C, H, W) that every image must come to, each looked at by itself; None asks for one shape in
    the whole unit, whichever the first image has.

    Raises SpecError on settings out of range. Raises InputError on a corrupt image unless skip_corrupt,
    on images that are not square or not 8 to 64 pixels wide, and on two shapes in one unit.
    """
    _check_settings(image_size, num_channels)
    ids: list[int] = []
    images: list[np.ndarray] = []
    labels: list[int] = []
    corrupt: list[str] = []
    first_name = ""
    for position, (name, payload, label) in enumerate(_READERS[unit.kind](unit)):
        try:
            pixels = _decode_one(name, payload, image_size, num_channels, unit.reading)
        except CorruptImageError as error:
            if not skip_corrupt:
                raise _corrupt(name, error) from error
            corrupt.append(name)
            continue
        first_name = first_name or name
        _check_shape(name, pixels.shape)
        if expected_shape is not None and pixels.shape != expected_shape:
            raise mixed_shapes_error("the shape stated, or of the public images,", expected_shape, name, pixels.shape)
        if images and pixels.shape != images[0].shape:
            raise mixed_shapes_error(first_name, images[0].shape, name, pixels.shape)
        ids.append(unit.first_example_id + position)
        images.append(pixels)
        labels.append(label)
    nothing = np.zeros((0, num_channels or 0, image_size or 0, image_size or 0), np.uint8)
    return DecodedUnit(
        example_id=np.array(ids, np.int64),
        image=np.stack(images) if images else nothing,
        label=np.array(labels, np.int32),
        corrupt=tuple(corrupt),
    )


def shape_of_first(
    unit: SourceUnit, *, image_size: int | None, num_channels: int | None, skip_corrupt: bool
) -> tuple[int, ...] | None:
    """Returns the (C, H, W) that the first image of a unit comes to; with skip_corrupt the first that can be decoded.

    None where every image of the unit is corrupt. Raises InputError as decode_unit does.
    """
    _check_settings(image_size, num_channels)
    for name, payload, _ in _READERS[unit.kind](unit):
        try:
            pixels = _decode_one(name, payload, image_size, num_channels, unit.reading)
        except CorruptImageError as error:
            if not skip_corrupt:
                raise _corrupt(name, error) from error
            continue
        _check_shape(name, pixels.shape)
        return pixels.shape
    return None


def _corrupt(name: str, error: CorruptImageError) -> InputError:
    return InputError(f"{name} is corrupt: it {error}; --skip-corrupt skips and counts it")


def mixed_shapes_error(
    first_name: str, first_shape: tuple[int, ...], second_name: str, second_shape: tuple[int, ...]
) -> InputError:
    """The error for two images, of one unit or of two, whose (C, H, W) shapes differ."""
    settings = [
        setting
        for setting, is_different in (
            ("data.num_channels", first_shape[0] != second_shape[0]),
            ("data.image_size", first_shape[1:] != second_shape[1:]),
        )
        if is_different
    ]
    return InputError(
        f"images differ in shape (channels, height, width): {first_name} is {first_shape}, "
        f"{second_name} is {second_shape}; set {' and '.join(settings)} to make them equal"
    )


def _decode_one(
    name: str,
    payload: bytes | np.ndarray | CorruptImageError,
    image_size: int | None,
    num_channels: int | None,
    reading: ReadingSpec,
) -> np.ndarray:
    if isinstance(payload, CorruptImageError):
        raise payload
    try:
        return to_pixels(payload, image_size=image_size, num_channels=num_channels, reading=reading)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _check_settings(image_size: int | None, num_channels: int | None) -> None:
    if image_size is not None and not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise SpecError(f"data.image_size is {image_size}; expected {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}")
    if num_channels not in (None, 1, 3):
        raise SpecError(f"data.num_channels is {num_channels}; expected 1 (grey) or 3 (RGB)")


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    _, height, width = shape
    if height != width or not MIN_IMAGE_SIZE <= height <= MAX_IMAGE_SIZE:
        raise InputError(
            f"{name} is {height} by {width} pixels; expected square images of {MIN_IMAGE_SIZE} to "
            f"{MAX_IMAGE_SIZE}; set data.image_size to resize them"
        )
