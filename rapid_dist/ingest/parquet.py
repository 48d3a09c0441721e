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
from rapid_dist.ingest.folder import unread_columns
from rapid_dist.ingest.pixels import CorruptImageError
from rapid_dist.ingest.provenance import refuse_own_table
from rapid_dist.ingest.units import NO_LABEL, SourceUnit, class_indices, open_file, refuse_unnamed_text, row_ranges
from rapid_dist.specs.reading import ReadingSpec

ImageReader = Callable[[Any, int], "bytes | np.ndarray"]
IMAGE, LABEL = "image", "label"  # columns, as Hugging Face names them
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
        f"its column has type {field.type}; expected encoded bytes, a struct with 'bytes', or lists of numbers"
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
            f"its column has a flat list of {nesting[0]} numbers, which is no square grey image; "
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
    uris: list[str],
    class_names: tuple[str, ...] | None,
    reading: ReadingSpec,
    *,
    reads_names: bool = True,
) -> tuple[list[SourceUnit], bool, tuple[str, ...] | None, tuple[str, ...]]:
    """Returns the units of Parquet files from their footers alone, whether they have labels, class names and notices.

    A unit is a row group, or a range of its rows when it has many. A Hugging Face ClassLabel numbers its classes by the
    names in its own file's metadata: integer labels are class indices where the order is that of class_names, and are
    looked up by name where it is another one.

    Args:
        reads_names: Whether class names that were not given are taken from that metadata; for private files they are
            not, since which file is read first would decide.

    Raises:
        InputError: A column is absent or of an unknown type, or the files do not agree.
        PrivacyError: A file is a part of a dataset of this program.
    """
    units: list[SourceUnit] = []
    label_types: dict[str, str] = {}
    names_of: dict[str, tuple[str, ...] | None] = {}
    notices: tuple[str, ...] = ()
    for uri in uris:
        with _opened(uri) as parquet:
            schema = parquet.schema_arrow
            group_sizes = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        refuse_own_table(uri, schema.metadata)
        names_of[uri] = _hugging_face_class_names(schema, reading.label_column or LABEL)
        if class_names is None and reads_names:
            class_names = names_of[uri]
        label_types[uri] = _check_schema(uri, schema, class_names, reading)
        if label_types[uri] == "no":
            others = [n for n in schema.names if n != (reading.image_column or IMAGE)]
            notices = notices or unread_columns(uri, others)
        units += [
            SourceUnit(
                index=0,
                kind="parquet",
                uri=uri,
                row_group=group,
                row_start=start,
                row_stop=stop,
                class_names=class_names,
                file_class_names=names_of[uri] if class_names not in (None, names_of[uri]) else None,
                first_example_id=0,
                num_examples=stop - start,
                reading=reading,
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
    if is_labelled:
        _check_names(names_of, class_names)
    return units, is_labelled, class_names if is_labelled else None, notices


def _check_names(names_of: dict[str, tuple[str, ...] | None], class_names: tuple[str, ...] | None) -> None:
    """Raises InputError where the class names in the files' metadata and the stated ones cannot all be right."""
    stated = {uri: names for uri, names in names_of.items() if names is not None}
    if class_names is None:
        if len(set(stated.values())) > 1:
            (one, first), (other, second) = list({names: (uri, names) for uri, names in stated.items()}.values())[:2]
            raise InputError(
                f"{one} numbers its classes {list(first)} and {other} {list(second)}; state class_names in the order "
                "you want, and labels are read by name"
            )
        return
    for uri, names in stated.items():
        if set(names) - set(class_names):
            raise InputError(
                f"{uri} names its classes {list(names)}, which are not all in the class names "
                f"{list(class_names)}; labels are read by name: state the names of the files, in the order you want"
            )


def read_parquet_unit(unit: SourceUnit) -> Iterator[tuple[str, bytes | np.ndarray | CorruptImageError, int]]:
    """Yields (name, encoded bytes or array of one image, label) in id order, a batch in memory at a time.

    Raises:
        InputError: The file is damaged or a label is outside the classes.
    """
    image, label = unit.reading.image_column or IMAGE, unit.reading.label_column or LABEL
    with _opened(unit.uri) as parquet:
        columns = [name for name in (image, label) if name in parquet.schema_arrow.names]
        batches = parquet.iter_batches(_ROWS_PER_BATCH, row_groups=[unit.row_group], columns=columns, use_threads=False)
        row = 0
        for batch in batches:
            wanted = range(max(unit.row_start, row), min(unit.row_stop, row + batch.num_rows))
            if wanted:
                yield from _read_batch(unit, batch.slice(wanted.start - row, len(wanted)), wanted, image, label)
            row += batch.num_rows
            if row >= unit.row_stop:
                return


def _read_batch(
    unit: SourceUnit, batch: Any, rows: range, image: str, label: str
) -> Iterator[tuple[str, bytes | np.ndarray | CorruptImageError, int]]:
    labels = [NO_LABEL] * batch.num_rows
    if label in batch.schema.names:
        found = _by_name(batch[label].to_pylist(), unit.file_class_names, unit.uri)
        labels = class_indices(found, class_names=unit.class_names, where=unit.uri)
    read_image = image_reader(batch.schema.field(image))
    for position, (row, number) in enumerate(zip(rows, labels, strict=True)):
        name = f"{unit.uri} row group {unit.row_group} row {row}"
        try:
            payload = read_image(batch[image], position)
        except CorruptImageError as error:
            payload = error
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        yield name, payload, number


def _by_name(labels: list[Any], names: tuple[str, ...] | None, where: str) -> list[Any]:
    """Returns integer labels as the names that their own file gives them; others, and -1 for none, as they are."""
    if names is None:
        return labels
    for label in labels:
        if isinstance(label, int) and label >= len(names):
            raise InputError(f"{where} has label {label} but names {len(names)} classes")
    return [names[label] if isinstance(label, int) and label >= 0 else label for label in labels]


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


def _check_schema(uri: str, schema: Any, class_names: tuple[str, ...] | None, reading: ReadingSpec) -> str:
    """Refuses columns that cannot be read; returns the kind of labels: "integer", "text" or "no"."""
    import pyarrow as pa

    image, label = reading.image_column or IMAGE, reading.label_column or LABEL
    if image not in schema.names:
        raise InputError(
            f"{uri} has columns {schema.names}; expected the images in a column named {image!r}, or name it: "
            "image_column: NAME (--image-column NAME)"
        )
    try:
        image_reader(schema.field(image))
    except InputError as error:
        raise InputError(f"{uri}: {error}") from None
    if label not in schema.names:
        if reading.label_column is not None:
            raise InputError(f"{uri} has columns {schema.names}, and no label column {label!r}")
        return "no"
    label_type = schema.field(label).type
    if pa.types.is_dictionary(label_type):
        label_type = label_type.value_type
    if pa.types.is_integer(label_type):
        return "integer"
    if not (pa.types.is_string(label_type) or pa.types.is_large_string(label_type)):
        raise InputError(f"{uri} has a label column of type {label_type}; expected integers or text")
    if class_names is None:
        raise refuse_unnamed_text(f"{uri} column {label!r}")
    return "text"


def _hugging_face_class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Returns the names of a ClassLabel feature from the schema metadata that the datasets library writes."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = tuple(metadata["info"]["features"][label]["names"])
        return names if names and all(isinstance(name, str) for name in names) else None
    except (KeyError, TypeError, ValueError):
        return None
