"""Images as rows of Parquet files: an `image` column and an optional `label` column."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rapid_dist.errors import InputError, RapidDistError
from rapid_dist.ingest.pixels import CorruptImageError
from rapid_dist.ingest.provenance import refuse_own_table
from rapid_dist.ingest.units import NO_LABEL, SourceUnit, class_indices, open_file, refuse_unnamed_text, row_ranges

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


_ROWS_PER_BATCH = 512


def list_parquet_units(
    uris: list[str], class_names: tuple[str, ...] | None, *, reads_names: bool = True
) -> tuple[list[SourceUnit], bool, tuple[str, ...] | None]:
    """Units of Parquet files from their footers alone; whether they have labels; the class names if known.

    A unit is a row group, or a range of its rows when it has many. reads_names: whether class names that were not given
    are taken from a Hugging Face ClassLabel feature; for private files they are not, since which file is read first
    would decide.

    Raises InputError when a column is absent or of an unknown type, or the files do not agree; PrivacyError for a part
    of a dataset of this program.
    """
    units: list[SourceUnit] = []
    label_types: dict[str, str] = {}
    for uri in uris:
        with _opened(uri) as parquet:
            schema = parquet.schema_arrow
            group_sizes = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        refuse_own_table(uri, schema.metadata)
        if class_names is None and reads_names:
            class_names = _hugging_face_class_names(schema)
        label_types[uri] = _check_schema(uri, schema, class_names)
        units += [
            SourceUnit(
                index=0,
                kind="parquet",
                uri=uri,
                row_group=group,
                row_start=start,
                row_stop=stop,
                class_names=class_names,
                first_example_id=0,
                num_examples=stop - start,
            )
            for group, num_rows in enumerate(group_sizes)
            for start, stop in row_ranges(num_rows)
        ]
    for uri, label_type in label_types.items():
        if label_type != label_types[uris[0]]:
            raise InputError(
                f"{uris[0]} has {label_types[uris[0]]} labels and {uri} has {label_type} labels; "
                "expected the same in every file"
            )
    is_labelled = label_types[uris[0]] != "no"
    return units, is_labelled, class_names if is_labelled else None


def read_parquet_unit(unit: SourceUnit) -> Iterator[tuple[str, bytes | np.ndarray | CorruptImageError, int]]:
    """Yields (name, encoded bytes or array of one image, label) in id order, a batch in memory at a time.

    Raises InputError when the file is damaged or a label is outside the classes.
    """
    with _opened(unit.uri) as parquet:
        columns = [name for name in ("image", "label") if name in parquet.schema_arrow.names]
        batches = parquet.iter_batches(_ROWS_PER_BATCH, row_groups=[unit.row_group], columns=columns, use_threads=False)
        row = 0
        for batch in batches:
            wanted = range(max(unit.row_start, row), min(unit.row_stop, row + batch.num_rows))
            if wanted:
                yield from _read_batch(unit, batch.slice(wanted.start - row, len(wanted)), wanted)
            row += batch.num_rows
            if row >= unit.row_stop:
                return


def _read_batch(
    unit: SourceUnit, batch: Any, rows: range
) -> Iterator[tuple[str, bytes | np.ndarray | CorruptImageError, int]]:
    labels = [NO_LABEL] * batch.num_rows
    if "label" in batch.schema.names:
        labels = class_indices(batch["label"].to_pylist(), class_names=unit.class_names, where=unit.uri)
    read_image = image_reader(batch.schema.field("image"))
    for position, (row, label) in enumerate(zip(rows, labels, strict=True)):
        name = f"{unit.uri} row group {unit.row_group} row {row}"
        try:
            payload = read_image(batch["image"], position)
        except CorruptImageError as error:
            payload = error
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        yield name, payload, label


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
            yield parquet
        except RapidDistError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{uri} is not a readable Parquet file ({type(error).__name__}); write it again"
            ) from error


def _check_schema(uri: str, schema: Any, class_names: tuple[str, ...] | None) -> str:
    """Refuses columns that cannot be read; returns the kind of labels: "integer", "text" or "no"."""
    import pyarrow as pa

    if "image" not in schema.names:
        raise InputError(f"{uri} has columns {schema.names}; expected the images in a column named 'image'")
    try:
        image_reader(schema.field("image"))
    except InputError as error:
        raise InputError(f"{uri}: {error}") from None
    if "label" not in schema.names:
        return "no"
    label_type = schema.field("label").type
    if pa.types.is_dictionary(label_type):
        label_type = label_type.value_type
    if pa.types.is_integer(label_type):
        return "integer"
    if not (pa.types.is_string(label_type) or pa.types.is_large_string(label_type)):
        raise InputError(f"{uri} has a label column of type {label_type}; expected integers or text")
    if class_names is None:
        raise refuse_unnamed_text(f"{uri} column 'label'")
    return "text"


def _hugging_face_class_names(schema: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel feature from the schema metadata that the datasets library writes."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(metadata["info"]["features"]["label"]["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None
