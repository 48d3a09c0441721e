"""Made-up source files of every kind, and the same files without one record: what an owner's neighbours really are."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rapid_dist.seeding import make_rng

CLASSES = ("bird", "cat", "dog")
SIDE = 8  # pixels; the least that ingest takes
_ODD_SIDE = 12  # of one file, which is resized: a shape must not come from whichever file is first
NUM_PUBLIC = 48


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """One file or row. image: (H, W) uint8, None for one that cannot be decoded; name: of its file within its class."""

    name: str
    label: int
    image: np.ndarray | None


def make_public(seed: int) -> np.ndarray:
    """Returns the public images, (NUM_PUBLIC, SIDE, SIDE) uint8."""
    return make_rng(seed, "audit-public-images").integers(0, 256, (NUM_PUBLIC, SIDE, SIDE), dtype=np.uint8)


def make_records(seed: int, *, same_sides: bool) -> tuple[SourceRecord, ...]:
    """Returns a private dataset in the order in which folders are listed: one bird, then cats, then dogs.

    Among them are two equal images, one equal to a public image, one that cannot be decoded and, unless same_sides, one
    of another size.
    """
    rng = make_rng(seed, "audit-private-images")

    def drawn(side: int = SIDE) -> np.ndarray:
        return rng.integers(0, 256, (side, side), dtype=np.uint8)

    labels = [0, *[1] * 6, *[2] * 6]
    images: list[np.ndarray | None] = [drawn() for _ in labels]
    images[1] = images[1] if same_sides else drawn(_ODD_SIDE)
    images[3] = None
    images[5] = make_public(seed)[7]
    images[9] = images[8]
    return tuple(
        SourceRecord(name=f"{place:03d}", label=label, image=image)
        for place, (label, image) in enumerate(zip(labels, images, strict=True))
    )


# What is taken out, by place. The only bird is also the first of all; with it gone, the odd one is first.
REMOVALS = {
    "the first record, the only one of its class": 0,
    "a record of another size": 1,
    "the corrupt record": 3,
    "the record equal to a public image": 5,
    "the middle record": 6,
    "a duplicate": 9,
    "the last record": 12,
}


def _png(image: np.ndarray | None) -> bytes:
    if image is None:
        return b"this is no image"
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _write_class_folders(folder: Path, records: tuple[SourceRecord, ...]) -> Path:
    for record in records:
        path = folder / CLASSES[record.label] / f"{record.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(record.image))
    return folder


def _write_flat_folder(folder: Path, records: tuple[SourceRecord, ...]) -> Path:
    folder.mkdir(parents=True)
    for record in records:
        (folder / f"{record.name}.png").write_bytes(_png(record.image))
    return folder


def _write_parquet(folder: Path, records: tuple[SourceRecord, ...]) -> Path:
    """Two files of encoded images and text labels, so that a record taken out also moves a file's boundary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    half = len(records) // 2
    for name, some in (("a", records[:half]), ("b", records[half:])):
        columns = {"image": [_png(r.image) for r in some], "label": [CLASSES[r.label] for r in some]}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=3)
    return folder


def _write_npz(folder: Path, records: tuple[SourceRecord, ...]) -> Path:
    """Float images from 0 to 1, where a corrupt one has pixels that are no number."""
    folder.mkdir(parents=True)
    corrupt = np.full((SIDE, SIDE), np.nan)
    images = [corrupt if r.image is None else r.image / 255 for r in records]
    labels = np.array([r.label for r in records], np.int64)
    np.savez(folder / "images.npz", images=np.stack(images).astype(np.float32), labels=labels)
    return folder / "images.npz"


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """A kind of source. objective: what training does with it, so that each objective meets some kind."""

    name: str
    write: Callable[[Path, tuple[SourceRecord, ...]], Path]
    is_labelled: bool = True
    same_sides: bool = False
    objective: str = "denoise"


KINDS = (
    SourceKind(name="class folders", write=_write_class_folders, objective="surrogate"),
    SourceKind(name="flat folder", write=_write_flat_folder, is_labelled=False),
    SourceKind(name="Parquet", write=_write_parquet),
    SourceKind(name="npz", write=_write_npz, same_sides=True, objective="surrogate"),
)


def write_source(kind: SourceKind, folder: Path, seed: int, *, without: int | None = None) -> Path:
    """Writes a source anew and returns the path that an owner would give. without: place of the record left out."""
    shutil.rmtree(folder, ignore_errors=True)
    records = make_records(seed, same_sides=kind.same_sides)
    if not kind.is_labelled:
        records = tuple(replace(record, label=-1) for record in records)
    return kind.write(folder, tuple(r for place, r in enumerate(records) if place != without))
