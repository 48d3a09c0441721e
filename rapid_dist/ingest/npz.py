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
from rapid_dist.ingest.pixels import array_layout
from rapid_dist.ingest.units import NO_LABEL, SourceUnit, class_indices, open_file, refuse_unnamed_text, row_ranges

IMAGE_NAMES = ("images", "x", "image")
LABEL_NAMES = ("labels", "y", "label")
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def list_npz_units(uri: str, class_names: tuple[str, ...] | None) -> tuple[list[SourceUnit], bool]:
    """Units of a .npz file from its headers alone, and whether it has labels.

    Raises InputError when the arrays are absent, of unknown layout, or of a type that is not pixels.
    """
    with _opened(uri) as archive:
        image_name = _array_name(archive, IMAGE_NAMES)
        label_name = _array_name(archive, LABEL_NAMES)
        if image_name is None:
            raise InputError(f"{uri} holds arrays {_names(archive)}; expected the images in one of {IMAGE_NAMES}")
        with archive.open(f"{image_name}.npy") as member:
            shape, _, dtype = _read_header(member, uri)
        _check_images(uri, image_name, shape, dtype)
        if label_name is not None:
            with archive.open(f"{label_name}.npy") as member:
                label_shape, _, label_dtype = _read_header(member, uri)
            _check_labels(uri, label_name, label_shape, label_dtype, shape[0], class_names)
    units = [
        SourceUnit(
            index=0,
            kind="npz",
            uri=uri,
            class_names=class_names if label_name else None,
            row_start=start,
            row_stop=stop,
            first_example_id=0,
            num_examples=stop - start,
        )
        for start, stop in row_ranges(shape[0])
    ]
    return units, label_name is not None


def read_npz_unit(unit: SourceUnit) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yields (name, array of one image, label) in id order.

    Raises InputError when the file is damaged or a label is outside the classes.
    """
    with _opened(unit.uri) as archive:
        images = _read_rows(archive, _array_name(archive, IMAGE_NAMES), unit)
        label_name = _array_name(archive, LABEL_NAMES)
        labels = [NO_LABEL] * len(images)
        if label_name is not None:
            rows = _read_rows(archive, label_name, unit).tolist()
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


def _array_name(archive: zipfile.ZipFile, candidates: tuple[str, ...]) -> str | None:
    present = _names(archive)
    return next((name for name in candidates if name in present), None)


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
    if shape != (num_images,):
        raise InputError(f"{uri} has {name!r} of shape {shape}; expected ({num_images},), one label an image")
    if dtype.kind not in "uiU":
        raise InputError(f"{uri} has {name!r} of type {dtype}; expected integers or text")
    if dtype.kind == "U" and class_names is None:
        raise refuse_unnamed_text(f"{uri} array {name!r}")
