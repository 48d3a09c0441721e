"""Finished samples as a torch dataset of (image, label), and as a dataset of Hugging Face."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from rapid_dist.errors import InputError
from rapid_dist.storage.manifest import Manifest, open_artifact
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import ImageTable, read_column, read_images

UNLABELLED = -1


class SampleDataset(Dataset[tuple[torch.Tensor, int]]):
    """Synthetic images with their labels; [i] gives (image (C, H, W) uint8 tensor, label int).

    A part is read and checked against its digest when one of its images is first asked for, and then kept.

    Args:
        store: The folder of the samples.
        manifest: The manifest in it.
        class_names: One name a class, by number; empty where there are no classes.
    """

    def __init__(self, store: Store, manifest: Manifest, *, class_names: Sequence[str]):
        self.store, self.manifest, self.class_names = store, manifest, tuple(class_names)
        self._entries = [f for f in manifest.files if f.path.endswith(".parquet") and f.rows]
        self._first_row = np.cumsum([0] + [f.rows for f in self._entries])
        self._parts: dict[int, ImageTable] = {}

    def __len__(self) -> int:
        return int(self._first_row[-1])

    def __repr__(self) -> str:
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"SampleDataset({len(self)} images{classes}, {self.manifest.privacy_class}, {self.store.uri!r})"

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Returns image (C, H, W) uint8 and label of one sample. Raises IndexError outside the samples."""
        row = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= row < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._first_row, row, side="right")) - 1
        table, place = self._part(number), row - self._first_row[number]
        return torch.tensor(table.image[place]), int(table.label[place])

    @property
    def statement(self) -> Mapping[str, Any]:
        """The privacy statement of what the samples were made from; empty for samples of the public model."""
        return dict(self.manifest.facts.get("statement", {}))

    @property
    def not_private_reasons(self) -> tuple[str, ...]:
        """Why the samples may not be called private; empty in a normal run."""
        return tuple(self.manifest.not_private_reasons)

    @cached_property
    def labels(self) -> np.ndarray:
        """All labels, (n,) int64, -1 for none, read without the images."""
        columns = []
        for entry in self._entries:
            with self.store.open_reader(entry.path) as file:
                columns.append(read_column(file, "label", where=self.store.uri_of(entry.path)))
        return np.concatenate([np.empty(0), *columns]).astype(np.int64)

    def tables(self) -> Iterator[ImageTable]:
        """Yields the parts in order, each checked against its digest; none is kept."""
        for entry in self._entries:
            yield read_images(self.store, entry)

    def counts(self) -> dict[str, int]:
        """Returns class name -> number of images, in label order; {} without classes."""
        found = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, found, strict=True))

    def to_hugging_face(self) -> Any:
        """Returns the samples as a datasets.Dataset with columns image (Image) and label (ClassLabel with the names).

        Raises:
            InputError: The package datasets is not installed.
        """
        try:
            import datasets
        except ImportError as error:
            raise InputError("the package datasets is not installed; `pip install datasets`") from error
        names = list(self.class_names)
        label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
        columns: dict[str, list[Any]] = {"image": [], "label": []}
        for number in range(len(self._entries)):
            table = self._part(number)
            columns["image"] += [{"bytes": png_bytes(image), "path": None} for image in table.image]
            columns["label"] += table.label.tolist()
        features = datasets.Features({"image": datasets.Image(), "label": label})
        return datasets.Dataset.from_dict(columns, features=features)

    def _part(self, number: int) -> ImageTable:
        if number not in self._parts:
            self._parts[number] = read_images(self.store, self._entries[number])
        return self._parts[number]


def open_samples(store: Store, *, stage: str, num_classes: int, class_names: Sequence[str] | None) -> SampleDataset:
    """Opens the finished samples of a stage; classes without names are called by their numbers.

    Raises ArtifactError when there are none.
    """
    manifest = open_artifact(store, stage=stage, privacy_classes=("dp", "public"))
    return SampleDataset(store, manifest, class_names=class_names or [str(k) for k in range(num_classes)])


def png_bytes(image: np.ndarray) -> bytes:
    """Returns an image (C, H, W) uint8 of one or three channels as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()
