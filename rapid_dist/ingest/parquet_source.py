"""Images as rows of Parquet files: an `image` column and an optional `label` column."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from rapid_dist.errors import InputError
from rapid_dist.ingest.files import open_file
from rapid_dist.ingest.image_columns import image_reader
from rapid_dist.ingest.labels import NO_LABEL, class_indices, refuse_unnamed_text
from rapid_dist.ingest.pixels import CorruptImageError
from rapid_dist.ingest.provenance import refuse_own_table
from rapid_dist.ingest.units import SourceUnit, row_ranges

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
