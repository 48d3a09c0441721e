"""The ways an Arrow column can hold images, each with the function that reads one row of it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rapid_dist.errors import InputError
from rapid_dist.ingest.pixels import CorruptImageError

ImageReader = Callable[[Any, int], "bytes | np.ndarray"]
_EXTENSION_METADATA = b"ARROW:extension:metadata"


def image_reader(field: Any) -> ImageReader:
    """The function (column, position) -> encoded bytes or pixel array for a field's type.

    Read are: encoded bytes; a struct with `bytes` (Hugging Face); nested lists of numbers; a flat list
    of numbers that is a square grey image; tensors of Ray Data and of Arrow, of one or many shapes.

    Raises InputError when the type is none of these. The function raises CorruptImageError on a bad row.
    """
    import pyarrow as pa

    kind, shape = field.type, None
    if isinstance(kind, pa.BaseExtensionType):
        shape = getattr(kind, "shape", None)
        kind = kind.storage_type
    elif field.metadata and _EXTENSION_METADATA in field.metadata:
        shape = _shape_of_unregistered_tensor(field.metadata[_EXTENSION_METADATA])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _read_bytes
    if pa.types.is_struct(kind) and {"data", "shape"} <= {kind.field(i).name for i in range(kind.num_fields)}:
        return _read_variable_tensor
    if pa.types.is_struct(kind) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}:
        return _read_struct
    if _is_list(kind) and _is_number(_innermost(kind)):
        return functools.partial(_read_lists, shape=tuple(shape) if shape else None)
    raise InputError(
        f"column 'image' has type {field.type}; expected encoded bytes, a struct with 'bytes', or lists of numbers"
    )


def _read_bytes(column: Any, position: int) -> bytes:
    content = column[position].as_py()
    if not content:
        raise CorruptImageError("has no bytes")
    return content


def _read_struct(column: Any, position: int) -> bytes:
    content = (column[position].as_py() or {}).get("bytes")
    if not content:
        raise CorruptImageError("has no bytes (only a path is not enough)")
    return content


def _read_variable_tensor(column: Any, position: int) -> np.ndarray:
    row = _storage(column)[position]
    if not row.is_valid or not row["data"].is_valid or not row["shape"].is_valid:
        raise CorruptImageError("is null")
    values = row["data"].values.to_numpy(zero_copy_only=False)
    return _reshape(values, tuple(row["shape"].as_py()))


def _read_lists(column: Any, position: int, *, shape: tuple[int, ...] | None) -> np.ndarray:
    """One row of nested lists; the shape is read off the nesting unless the column states it."""
    import pyarrow.compute as pc

    level = _storage(column).slice(position, 1)
    nesting: list[int] = []
    while _is_list(level.type):
        if level.null_count:
            raise CorruptImageError("has nulls")
        lengths = pc.list_value_length(level).to_numpy(zero_copy_only=False)
        if lengths.size == 0 or lengths.min() != lengths.max():
            raise CorruptImageError("is empty or has rows of different length")
        nesting.append(int(lengths[0]))
        level = level.flatten()
    if level.null_count:
        raise CorruptImageError("has nulls")
    values = level.to_numpy(zero_copy_only=False)
    return _reshape(values, shape or _square_if_flat(tuple(nesting)))


def _square_if_flat(nesting: tuple[int, ...]) -> tuple[int, ...]:
    if len(nesting) > 1:
        return nesting
    side = math.isqrt(nesting[0])
    if side * side != nesting[0]:
        raise InputError(
            f"column 'image' has a flat list of {nesting[0]} numbers, which is no square grey image; "
            "store nested lists or encoded bytes"
        )
    return side, side


def _reshape(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.size != math.prod(shape):
        raise CorruptImageError(f"has {values.size} numbers for shape {shape}")
    return values.reshape(shape)


def _storage(column: Any) -> Any:
    return getattr(column, "storage", column)


def _shape_of_unregistered_tensor(metadata: bytes) -> tuple[int, ...] | None:
    """A tensor column read without its extension type keeps its shape as JSON: a list, or {"shape": list}."""
    try:
        value = json.loads(metadata)
    except ValueError:
        return None
    value = value.get("shape") if isinstance(value, dict) else value
    return tuple(value) if isinstance(value, list) and all(isinstance(n, int) for n in value) else None


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _innermost(kind: Any) -> Any:
    while _is_list(kind):
        kind = kind.value_type
    return kind
