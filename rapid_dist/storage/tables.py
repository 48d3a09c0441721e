"""Arrow tables as Parquet bytes, arrays in and arrays out, and the image parts of a dataset."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rapid_dist.errors import ArtifactError, RapidDistError
from rapid_dist.storage.manifest import FileEntry, Manifest, read_file, write_file
from rapid_dist.storage.store import Store

OWN_METADATA = b"rapid_dist."  # how the names in the schema metadata of every table of this program begin
_SHAPES = OWN_METADATA + b"shapes"
_GROUPS = OWN_METADATA + b"groups"


def table_bytes(columns: Mapping[str, np.ndarray], *, said: Mapping[str, str] | None = None) -> bytes:
    """Columns (n, ...) of equal length as Parquet; those with more than one dimension become fixed-size lists.

    said: what the file says of itself in its schema metadata, under names that begin with OWN_METADATA.
    """
    sink, table = io.BytesIO(), _to_table(columns)
    own = {OWN_METADATA + name.encode(): value.encode() for name, value in (said or {}).items()}
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **own}), sink, compression="zstd")
    return sink.getvalue()


def table_arrays(data: bytes, *, where: str = "a Parquet file") -> dict[str, np.ndarray]:
    """What table_bytes saved, with the same shapes and types. Raises ArtifactError when it is no such table."""
    try:
        return _to_arrays(pq.read_table(io.BytesIO(data)))
    except (pa.ArrowException, KeyError, TypeError):
        raise _no_table(where) from None


def read_column(file: BinaryIO, name: str, *, where: str) -> np.ndarray:
    """One flat column of a table, without the others. Raises ArtifactError when there is no such table or column."""
    try:
        return pq.read_table(file, columns=[name]).column(name).to_numpy()
    except RapidDistError:
        raise
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _no_table(where, error) from None


def grouped_table_bytes(columns: Mapping[str, np.ndarray], group: np.ndarray) -> bytes:
    """As table_bytes, with one row group a group number, so that one group is read without the others.

    group: (n,) int, not negative. Rows keep their order within a group; a group without rows takes no space.
    Every page carries a checksum, because a reader of one group cannot check the digest of the file.
    """
    order = np.argsort(group, kind="stable")
    numbers, counts = np.unique(group, return_counts=True)
    table = _to_table({name: np.asarray(values)[order] for name, values in columns.items()})
    names = json.dumps([int(g) for g in numbers]).encode()
    table = table.replace_schema_metadata({**table.schema.metadata, _GROUPS: names})
    sink = io.BytesIO()
    settings = {"compression": "zstd", "write_statistics": False, "write_page_checksum": True}
    with pq.ParquetWriter(sink, table.schema, **settings) as writer:
        first = 0
        for count in counts.tolist():
            writer.write_table(table.slice(first, count), row_group_size=count)
            first += count
    return sink.getvalue()


def grouped_table_arrays(data: bytes, *, where: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All columns of grouped_table_bytes, rows by ascending group, and the group (n,) int64 of each row.

    Raises ArtifactError when the bytes are no such table.
    """
    try:
        parquet = pq.ParquetFile(io.BytesIO(data))
        numbers = json.loads(parquet.schema_arrow.metadata[_GROUPS])
        counts = [parquet.metadata.row_group(i).num_rows for i in range(len(numbers))]
        return _to_arrays(parquet.read()), np.repeat(np.array(numbers, dtype=np.int64), counts)
    except RapidDistError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _no_table(where, error) from None


def read_table_group(
    file: BinaryIO, group: int, *, where: str, columns: Sequence[str] | None = None
) -> dict[str, np.ndarray] | None:
    """The columns of one group of grouped_table_bytes, None when it has no rows; reads no other group.

    columns: those to read, None for all.
    Raises ArtifactError when the file is no such table, is cut, or the group's pages fail their checksum.
    """
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=True)
        numbers = json.loads(parquet.schema_arrow.metadata[_GROUPS])
        if group not in numbers:
            return None
        return _to_arrays(parquet.read_row_group(numbers.index(group), columns=columns))
    except RapidDistError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _no_table(where, error) from None


def _to_table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    arrays, fields, shapes = [], [], {}
    for name, values in columns.items():
        values = np.ascontiguousarray(values)
        if values.ndim == 1:
            array: pa.Array = pa.array(values)
        else:
            shapes[name] = list(values.shape[1:])
            size = int(np.prod(values.shape[1:]))
            array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=False))
    schema = pa.schema(fields, metadata={_SHAPES: json.dumps(shapes).encode()})
    return pa.Table.from_arrays(arrays, schema=schema)


def _to_arrays(table: pa.Table) -> dict[str, np.ndarray]:
    shapes = json.loads(table.schema.metadata[_SHAPES])
    columns = {}
    for name in table.column_names:
        chunk = table.column(name).combine_chunks()
        if name in shapes:
            columns[name] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shapes[name])
        else:
            columns[name] = chunk.to_numpy(zero_copy_only=False)
    return columns


def _no_table(where: str, error: Exception | None = None) -> Exception:
    """What to raise for bytes that are no table: Arrow's OSErrors are about them, those with a number about a disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return ArtifactError(f"{where} is not a table of this program; run the stage that made it again")


INGEST = "ingest"


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """example_id (n,) int64; image (n, C, H, W) uint8; label (n,) int32, -1 for none."""

    example_id: np.ndarray
    image: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.example_id)


def write_images(store: Store, path: str, table: ImageTable, *, stage: str, privacy_class: str) -> FileEntry:
    """Writes one part and returns its entry for the manifest.

    stage, privacy_class: those of the artefact. The file itself says them too, so that a part which is taken out of its
    folder is never read as raw images of another class.
    """
    columns = {"example_id": table.example_id, "image": table.image, "label": table.label}
    said = {"stage": stage, "privacy_class": privacy_class}
    return write_file(store, path, table_bytes(columns, said=said), rows=len(table))


def read_images(store: Store, entry: FileEntry) -> ImageTable:
    """One part, checked against its digest."""
    return ImageTable(**table_arrays(read_file(store, entry), where=f"{store.uri}/{entry.path}"))


def iterate_images(store: Store, files: Sequence[FileEntry]) -> Iterator[ImageTable]:
    """The parts that hold images, one at a time; empty parts are passed over."""
    for entry in files:
        if entry.path.endswith(".parquet") and entry.rows:
            yield read_images(store, entry)


def iterate_labels(store: Store, files: Sequence[FileEntry]) -> Iterator[np.ndarray]:
    """Yields the labels (n,) int32 of the parts that hold images, one at a time; no pixel is read."""
    for entry in files:
        if entry.path.endswith(".parquet") and entry.rows:
            with store.open_reader(entry.path) as file:
                yield read_column(file, "label", where=store.uri_of(entry.path))


def read_all_images(store: Store, manifest: Manifest, *, rank: int = 0, world_size: int = 1) -> ImageTable:
    """A worker's share of a dataset as one table, at least one row wherever the dataset has enough of them.

    Whole parts go to workers in turn when there are enough parts, else rows do. Which worker holds a record never
    changes a result.
    """
    parts = [f for f in manifest.files if f.path.endswith(".parquet") and f.rows]
    by_part = len(parts) >= 4 * world_size
    tables, first_row = [], 0
    for table in iterate_images(store, parts[rank::world_size] if by_part else parts):
        # By row, not by id: ids have gaps where duplicates and broken files were left out.
        rows = np.arange(first_row, first_row + len(table))
        mine = slice(None) if by_part else np.flatnonzero(rows % world_size == rank)
        first_row += len(table)
        tables.append((table.example_id[mine], table.image[mine], table.label[mine]))
    if not tables:
        shape = tuple(manifest.facts["image_shape"])
        empty = np.empty(0, np.int64), np.empty((0, *shape), np.uint8), np.empty(0, np.int32)
        tables.append(empty)
    ids, images, labels = (np.concatenate(column) for column in zip(*tables, strict=True))
    return ImageTable(example_id=ids, image=images, label=labels)


def find_images(store: Store, manifest: Manifest, example_ids: Sequence[int]) -> dict[int, np.ndarray]:
    """Example id -> image (C, H, W) of those ids that the dataset holds; reads only the parts that they lie in."""
    wanted, found = set(example_ids), {}
    for entry in manifest.files:
        if not entry.rows or not wanted - set(found):
            continue
        with store.open_reader(entry.path) as file:
            here = wanted & set(read_column(file, "example_id", where=f"{store.uri}/{entry.path}").tolist())
        if here:
            table = read_images(store, entry)
            found |= {int(i): image for i, image in zip(table.example_id, table.image, strict=True) if i in here}
    return found
