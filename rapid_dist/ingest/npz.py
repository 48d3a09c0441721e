"""Images as one array in a NumPy .npz file, read a range of rows at a time and never unpickled."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from rapid_dist.errors import InputError, RapidDistError
from rapid_dist.ingest.folder import unread_columns
from rapid_dist.ingest.pixels import array_layout
from rapid_dist.ingest.units import (
    NO_LABEL,
    SourceUnit,
    class_indices,
    of_split,
    open_file,
    refuse_unnamed_text,
    row_units,
    split_of,
)
from rapid_dist.specs.reading import ReadingSpec

IMAGE_NAMES = ("images", "x", "image")
LABEL_NAMES = ("labels", "y", "label")
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def list_npz_units(
    uri: str, class_names: tuple[str, ...] | None, reading: ReadingSpec
) -> tuple[list[SourceUnit], bool, tuple[str, ...]]:
    """Returns the units of a .npz file from its headers alone, whether it has labels, and notices.

    Arrays are images, x or image, and labels, y or label; with the split's name before or after, as in train_images
    (MedMNIST) and x_train (Keras), reading.split chooses; reading.image_column and label_column name others.

    Raises:
        InputError: The arrays are absent, several splits, of unknown layout, or of a type that is not pixels.
    """
    with _opened(uri) as archive:
        image_name, label_name = _array_names(archive, uri, reading)
        with archive.open(f"{image_name}.npy") as member:
            shape, _, dtype = _read_header(member, uri)
        _check_images(uri, image_name, shape, dtype)
        if label_name is not None:
            with archive.open(f"{label_name}.npy") as member:
                label_shape, _, label_dtype = _read_header(member, uri)
            _check_labels(uri, label_name, label_shape, label_dtype, shape[0], class_names)
        others = [name for name in _names(archive) if name != image_name and split_of(name) is None]
    units = row_units("npz", uri, shape[0], class_names=class_names if label_name else None, reading=reading)
    return units, label_name is not None, unread_columns(uri, others) if label_name is None else ()


def read_npz_unit(unit: SourceUnit) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yields (name, array of one image, label) in id order.

    Raises:
        InputError: The file is damaged or a label is outside the classes.
    """
    with _opened(unit.uri) as archive:
        image_name, label_name = _array_names(archive, unit.uri, unit.reading)
        images = _read_rows(archive, image_name, unit)
        labels = [NO_LABEL] * len(images)
        if label_name is not None:
            rows = _read_rows(archive, label_name, unit).reshape(-1).tolist()
            labels = class_indices(rows, class_names=unit.class_names, where=unit.uri)
    for row, image, label in zip(range(unit.row_start, unit.row_stop), images, labels, strict=True):
        yield f"{unit.uri} row {row}", image, label


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[zipfile.ZipFile]:
    try:
        with open_file(uri) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except RapidDistError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise InputError(f"{uri} is not a readable .npz file ({type(error).__name__}); write it again") from error


def _names(archive: zipfile.ZipFile) -> list[str]:
    return sorted(name.removesuffix(".npy") for name in archive.namelist())


def _array_names(archive: zipfile.ZipFile, uri: str, reading: ReadingSpec) -> tuple[str, str | None]:
    """Returns the names of the arrays of images and of labels, None where nothing is named as labels are."""
    present = _names(archive)
    images = _one_of(present, reading.image_column, IMAGE_NAMES, reading.split, uri)
    if images is None:
        raise InputError(
            f"{uri} holds arrays {present}; expected the images in one of {IMAGE_NAMES}, or name the arrays: "
            "image_column: NAME, label_column: NAME (--image-column NAME --label-column NAME)"
        )
    return images, _one_of(present, reading.label_column, LABEL_NAMES, reading.split, uri)


def _one_of(present: list[str], stated: str | None, known: tuple[str, ...], split: str | None, uri: str) -> str | None:
    if stated is not None:
        if stated not in present:
            raise InputError(f"{uri} holds arrays {present}, and no {stated!r}")
        return stated
    plain = [name for name in known if name in present]
    if plain and split is None:
        return plain[0]
    # train_images and x_train are images; words other than a split's and a known name's make it another array.
    of_splits = [
        name
        for name in present
        if split_of(name) and any(word in known for word in name.split("_")) and len(name.split("_")) == 2
    ]
    if not of_splits:
        return None
    return of_split(of_splits, split, uri)[0]


def _read_header(member: IO[bytes], uri: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version not in _HEADER_READERS:
        raise InputError(f"{uri} has an array of .npy version {version}; expected 1.0 or 2.0: save it again")
    shape, is_fortran, dtype = _HEADER_READERS[version](member)
    if dtype.hasobject:
        raise InputError(f"{uri} holds Python objects, which are never unpickled; save plain arrays")
    return shape, is_fortran, dtype


def _read_rows(archive: zipfile.ZipFile, name: str | None, unit: SourceUnit) -> np.ndarray:
    """Rows row_start..row_stop of one array; a Fortran-ordered array has to be read whole."""
    with archive.open(f"{name}.npy") as member:
        shape, is_fortran, dtype = _read_header(member, unit.uri)
        if is_fortran and len(shape) > 1:
            member.seek(0)
            return np.lib.format.read_array(member, allow_pickle=False)[unit.row_start : unit.row_stop]
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        member.seek(member.tell() + unit.row_start * row_bytes)
        data = member.read(unit.num_examples * row_bytes)
    return np.frombuffer(data, dtype).reshape(unit.num_examples, *shape[1:])


def _check_images(uri: str, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (3, 4):
        raise InputError(
            f"{uri} has {name!r} of shape {shape}; expected (N, height, width), "
            "(N, height, width, channels) or (N, channels, height, width)"
        )
    if dtype.kind not in "uif":
        raise InputError(f"{uri} has {name!r} of type {dtype}; expected uint8, or floats from 0 to 1")
    try:
        array_layout(shape[1:])
    except InputError as error:
        raise InputError(f"{uri} has {name!r} of shape {shape}: {error}") from None


def _check_labels(
    uri: str,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    num_images: int,
    class_names: tuple[str, ...] | None,
) -> None:
    if shape not in ((num_images,), (num_images, 1)):
        raise InputError(f"{uri} has {name!r} of shape {shape}; expected ({num_images},), one label an image")
    if dtype.kind not in "uiU":
        raise InputError(f"{uri} has {name!r} of type {dtype}; expected integers or text")
    if dtype.kind == "U" and class_names is None:
        raise refuse_unnamed_text(f"{uri} array {name!r}")
