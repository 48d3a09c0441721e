"""An ingested dataset: image parts under a manifest with its privacy class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rapid_dist.artifacts.manifest import FileEntry, Manifest, read_file, write_file
from rapid_dist.artifacts.storage import Store
from rapid_dist.artifacts.tables import read_column, table_arrays, table_bytes

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
