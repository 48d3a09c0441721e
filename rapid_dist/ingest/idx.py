"""Images in MNIST's own format: an IDX file of bytes, plain or gzipped, and a file of labels beside it.

`train-images-idx3-ubyte.gz` has its labels in `train-labels-idx1-ubyte.gz`. The format is 0, 0, the type (8 for
unsigned bytes), the number of axes, each axis as a big-endian 32-bit integer, then the values in C order.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rapid_dist.errors import InputError
from rapid_dist.ingest.pixels import array_layout
from rapid_dist.ingest.units import NO_LABEL, SourceUnit, class_indices, is_file, open_file, row_units
from rapid_dist.specs.reading import ReadingSpec
from rapid_dist.storage.store import Store

_IMAGES = re.compile(r"images?[-.]idx[34][-.]ubyte(\.gz)?$")
_UNSIGNED_BYTES = 8


def is_idx(uri: str) -> bool:
    """Returns whether a file's name is that of IDX images."""
    return _IMAGES.search(uri.lower()) is not None


def list_idx_units(
    uri: str, class_names: tuple[str, ...] | None, reading: ReadingSpec
) -> tuple[list[SourceUnit], bool]:
    """Returns the units of an IDX file of images from its header alone, and whether a file of labels lies beside it.

    Raises:
        InputError: It is no IDX file of bytes, no images, or it has another number of labels than of images.
    """
    with _opened(uri) as file:
        shape = _read_header(file, uri)
    array_layout(shape[1:])
    labels = _labels_uri(uri)
    if labels is not None:
        with _opened(labels) as file:
            label_shape = _read_header(file, labels)
        if label_shape != shape[:1]:
            raise InputError(f"{labels} has shape {label_shape}; expected {shape[:1]}, one label an image of {uri}")
    units = row_units("idx", uri, shape[0], class_names=class_names if labels else None, reading=reading)
    return units, labels is not None


def read_idx_unit(unit: SourceUnit) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yields (name, array of one image, label) in id order. Raises InputError when a file is damaged."""
    images = _read_rows(unit.uri, unit)
    labels_uri, labels = _labels_uri(unit.uri), [NO_LABEL] * len(images)
    if labels_uri is not None:
        numbers = _read_rows(labels_uri, unit).tolist()
        labels = class_indices(numbers, class_names=unit.class_names, where=labels_uri)
    for row, image, label in zip(range(unit.row_start or 0, unit.row_stop or 0), images, labels, strict=True):
        yield f"{unit.uri} row {row}", image, label


def _labels_uri(uri: str) -> str | None:
    """Returns where the labels of a file of images lie by its name, None where there is no such file."""
    folder, _, name = uri.rpartition("/")
    labels = re.sub(r"idx[34]", "idx1", name.replace("images", "labels").replace("image", "label"))
    return f"{folder}/{labels}" if labels != name and is_file(Store(f"{folder}/{labels}")) else None


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[Any]:
    with open_file(uri) as file:
        try:
            yield gzip.GzipFile(fileobj=file) if uri.lower().endswith(".gz") else file
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise InputError(f"{uri} is not a readable gzip file ({type(error).__name__}); write it again") from error


def _read_header(file: Any, uri: str) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTES or not 1 <= magic[3] <= 4:
        raise InputError(f"{uri} does not begin as an IDX file of bytes does; fetch it again")
    axes = file.read(4 * magic[3])
    if len(axes) < 4 * magic[3]:
        raise InputError(f"{uri} ends within its header; fetch it again")
    return tuple(int(n) for n in np.frombuffer(axes, ">u4"))


def _read_rows(uri: str, unit: SourceUnit) -> np.ndarray:
    with _opened(uri) as file:
        shape = _read_header(file, uri)
        row_bytes = math.prod(shape[1:])
        file.seek(file.tell() + (unit.row_start or 0) * row_bytes)
        data = file.read(unit.num_examples * row_bytes)
    if len(data) < unit.num_examples * row_bytes:
        raise InputError(f"{uri} ends before its last row; fetch it again")
    return np.frombuffer(data, np.uint8).reshape(unit.num_examples, *shape[1:])
