"""What each format writes: the samples as files that other programs read as images.

>>> sorted(FORMATS)
['folder', 'hf', 'npz', 'parquet', 'webdataset']
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rapid_dist.export.names import folder_name
from rapid_dist.sampling.dataset import SampleDataset, png_bytes
from rapid_dist.storage.manifest import FileEntry, file_entry
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import ImageTable

ROWS_PER_SHARD = 10_000  # a shard of small images is some MB, and a folder on the Hub may hold 10,000 files
ROWS_PER_GROUP = 500  # a viewer reads one row group at a time

Put = Callable[[str, bytes, int], None]  # path, content, rows
Write = Callable[[SampleDataset, Put], None]


class Writer:
    """Writes the files of an export and keeps the size and sha256 of each.

    Args:
        out: The folder of the export.
    """

    def __init__(self, out: Store):
        self.out = out
        self.files: list[FileEntry] = []

    def __call__(self, path: str, data: bytes, rows: int = 0) -> None:
        """Writes one file. On a disk it is not synced: SHA256SUMS comes last and is, and says what is complete."""
        if self.out.is_local:
            target = Path(self.out.path(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        else:
            self.out.write_bytes(path, data)
        self.files.append(file_entry(path, data, rows=rows))

    def sums(self) -> bytes:
        """Returns the content of SHA256SUMS, as `sha256sum -c` reads it."""
        lines = [f"{f.sha256}  {f.path}\n" for f in sorted(self.files, key=lambda f: f.path)]
        return "".join(lines).encode()


def hugging_face_features(class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the columns as `datasets` describes them: Image, and ClassLabel with the names in label order."""
    label = {"names": list(class_names), "_type": "ClassLabel"} if class_names else {"dtype": "int64", "_type": "Value"}
    return {"image": {"_type": "Image"}, "label": label}


def _rows(samples: SampleDataset) -> Iterator[tuple[int, np.ndarray, int]]:
    """Row number, image (C, H, W) uint8 and label of every sample in turn, one part in memory."""
    row = 0
    for table in samples.tables():
        for image, label in zip(table.image, table.label.tolist(), strict=True):
            yield row, image, label
            row += 1


def _shards(samples: SampleDataset) -> Iterator[tuple[int, int, list[tuple[int, np.ndarray, int]]]]:
    """Shard number, shards in all, and the rows of each shard."""
    total, held = max(1, -(-len(samples) // ROWS_PER_SHARD)), []
    for number, row in enumerate(_rows(samples), 1):
        held.append(row)
        if number % ROWS_PER_SHARD == 0 or number == len(samples):
            yield (number - 1) // ROWS_PER_SHARD, total, held
            held = []


def _name(samples: SampleDataset, label: int) -> str:
    return samples.class_names[label] if label >= 0 else ""


def _write_folder(samples: SampleDataset, put: Put) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file_name", "label", "class_name"])
    for row, image, label in _rows(samples):
        path = f"{folder_name(label, _name(samples, label))}/{row:09d}.png"
        put(f"train/{path}", png_bytes(image), 1)
        table.writerow([path, label, _name(samples, label)])
    put("train/metadata.csv", text.getvalue().encode(), 0)


def _write_parquet(samples: SampleDataset, put: Put) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = json.dumps({"info": {"features": hugging_face_features(samples.class_names)}}).encode()
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image_type), ("label", pa.int64())], metadata={b"huggingface": features})
    for shard, total, rows in _shards(samples):
        images = [{"bytes": png_bytes(image), "path": f"{row:09d}.png"} for row, image, _ in rows]
        table = pa.table([pa.array(images, image_type), pa.array([r[2] for r in rows], pa.int64())], schema=schema)
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP)
        put(f"data/train-{shard:05d}-of-{total:05d}.parquet", sink.getvalue(), len(rows))


def _write_webdataset(samples: SampleDataset, put: Put) -> None:
    for shard, _, rows in _shards(samples):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row, image, label in rows:
                said = json.dumps({"label": label, "class_name": _name(samples, label)}).encode()
                for suffix, data in (("png", png_bytes(image)), ("cls", str(label).encode()), ("json", said)):
                    member = tarfile.TarInfo(f"{row:09d}.{suffix}")  # its time is 0 and its owner nobody: same bytes
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        put(f"data/train-{shard:06d}.tar", sink.getvalue(), len(rows))


def _write_npz(samples: SampleDataset, put: Put) -> None:
    tables: list[ImageTable] = list(samples.tables())
    images = np.concatenate([t.image for t in tables])
    images = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        images=np.ascontiguousarray(images),
        labels=np.concatenate([t.label for t in tables]).astype(np.int64),
        class_names=np.array(samples.class_names, dtype=str),
    )
    put("samples.npz", sink.getvalue(), len(images))


FORMATS: dict[str, Write] = {
    "folder": _write_folder,
    "parquet": _write_parquet,
    "hf": _write_parquet,  # what the Hub itself keeps: the same Parquet files, which load_dataset reads
    "webdataset": _write_webdataset,
    "npz": _write_npz,
}
