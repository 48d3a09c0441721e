"""Images as files: a folder of class sub-folders, one flat folder without labels, or files that a table lists."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from rapid_dist.errors import InputError
from rapid_dist.ingest.units import (
    MAX_FILES_PER_UNIT,
    NO_LABEL,
    SourceUnit,
    class_indices,
    list_data_files,
    list_folders,
    refuse_unnamed_text,
    row_ranges,
)
from rapid_dist.specs.reading import ReadingSpec
from rapid_dist.storage.store import Store

IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
# Tables that say which label a file has: of dataset_tool (EDM, DPDM), and of Hugging Face image folders.
INDEX_FILES = ("dataset.json", "metadata.csv", "metadata.jsonl", "labels.csv")
_FILES_IN_FLIGHT = 32


def list_images(store: Store, relative: str = "") -> list[str]:
    """Returns the sorted names of the visible image files directly in a folder. Raises InputError on a dead link."""
    return [name for name in list_data_files(store, relative) if name.lower().endswith(IMAGE_SUFFIXES)]


def passed_over(store: Store, folders: list[str], *, is_private: bool) -> tuple[str, ...]:
    """Returns a notice about the visible files, in the folder and the given sub-folders, that are no images.

    Guarantee: of a private source it names kinds and counts nothing, since a file may be somebody's record.
    """
    suffixes: Counter[str] = Counter()
    for relative in ("", *folders):
        names = [name for name in list_data_files(store, relative) if name not in INDEX_FILES]
        others = [name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
        suffixes.update(PurePosixPath(name).suffix.lower() or "no suffix" for name in others)
    if not suffixes:
        return ()
    kinds = ", ".join(kind if is_private else f"{suffixes[kind]} {kind}" for kind in sorted(suffixes))
    return (f"passed over files of {store.uri} that are no images by their names: {kinds}",)


def list_flat_units(store: Store, reading: ReadingSpec) -> list[SourceUnit]:
    """Returns the units of a flat folder of images; an empty folder has none."""
    return _units(store, "flat_folder", list_images(store), None, None, reading)


def list_class_units(
    store: Store, folders: list[str], class_names: tuple[str, ...] | None, reading: ReadingSpec, *, is_private: bool
) -> tuple[list[SourceUnit], tuple[str, ...]]:
    """Returns the units of a folder of class folders, and the class names: the given ones, or the folders' names.

    Files are listed by sorted folder, then sorted name, whatever the order of the classes.

    Raises:
        InputError: A folder is no known class, holds further folders, or, in a public source, holds no images.
    """
    class_names = class_names or tuple(folders)
    unknown = [folder for folder in folders if folder not in class_names]
    if unknown:
        raise InputError(
            f"{store.uri} has folders {unknown} that are not in data.class_names {list(class_names)}; "
            "add them there or move them away"
        )
    files: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    for folder in folders:
        nested = list_folders(store.child(folder))
        if nested:
            raise InputError(
                f"{store.uri}/{folder} holds folders {nested}; expected images directly inside a class folder"
            )
        names = list_images(store, folder)
        if not names:
            empty.append(folder)
        files += [f"{folder}/{name}" for name in names]
        labels += [class_names.index(folder)] * len(names)
    # A private class may have lost its only record, so that an empty folder says nothing wrong there.
    if files and empty and not is_private:
        raise InputError(
            f"{store.uri}/{empty[0]} holds no images but would count as a class; move it away, or take its name out of "
            "the class names"
        )
    return _units(store, "class_folders", files, labels, class_names, reading), class_names


def list_listed_units(
    store: Store, index_file: str, class_names: tuple[str, ...] | None, reading: ReadingSpec
) -> tuple[list[SourceUnit], bool, tuple[str, ...]]:
    """Returns the units of the files that a table lists, whether they have labels, and notices.

    Raises:
        InputError: The table cannot be read, or it and the folder do not hold the same images.
    """
    where = f"{store.uri}/{index_file}"
    text = store.read_bytes(index_file).decode("utf-8-sig", errors="replace")
    rows, notices = _listed_rows(text, where, index_file, reading)
    rows.sort()
    files = [file for file, _ in rows]
    _check_listing(store, where, files)
    # A label that is a class's name is that class, whatever number it may look like.
    known = set(class_names or ())
    labels = [str(label) if str(label) in known else label for _, label in rows]
    if all(label is None for label in labels):
        return _units(store, "listed", files, None, None, reading), False, notices
    if class_names is None and any(isinstance(label, str) for label in labels):
        raise refuse_unnamed_text(where)
    numbers = class_indices(labels, class_names=class_names, where=where)
    return _units(store, "listed", files, numbers, class_names, reading), True, notices


def _listed_rows(
    text: str, where: str, index_file: str, reading: ReadingSpec
) -> tuple[list[tuple[str, int | str | None]], tuple[str, ...]]:
    try:
        if index_file == "dataset.json":
            return [(str(file), _label(label)) for file, label in json.loads(text)["labels"] or ()], ()
        if index_file.endswith(".jsonl"):
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            records = list(csv.DictReader(io.StringIO(text)))
        columns = list(records[0]) if records else []
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"{where} is no table of files and labels ({type(error).__name__}); write it again") from None
    file_column, label_column = reading.image_column or "file_name", reading.label_column or "label"
    if file_column not in columns:
        raise InputError(
            f"{where} has columns {columns}; expected the file names in {file_column!r}, or image_column: NAME "
            "(--image-column NAME)"
        )
    notices: tuple[str, ...] = ()
    if label_column not in columns:
        if reading.label_column:
            raise InputError(f"{where} has columns {columns}, and no label column {label_column!r}")
        others = [name for name in columns if name != file_column]
        notices = unread_columns(where, others)
    return [(str(row[file_column]), _label(row.get(label_column))) for row in records], notices


def unread_columns(where: str, columns: list[str]) -> tuple[str, ...]:
    """Returns a notice that no label was read although there are further columns."""
    if not columns:
        return ()
    return (
        f"{where} is read without labels, since none of its columns {columns} is named label; label_column: NAME "
        "(--label-column NAME) reads one",
    )


def _label(value: Any) -> int | str | None:
    """Returns a table's label: a whole number where it is one, also as text, else text; nothing is no label."""
    if value is None or value == "":
        return None
    text = str(value)
    return int(text) if text.lstrip("-").isdigit() else text


def _check_listing(store: Store, where: str, files: list[str]) -> None:
    if any(".." in PurePosixPath(file).parts or file.startswith("/") for file in files):
        raise InputError(f"{where} names files outside its folder; give paths relative to it")
    if len(set(files)) != len(files):
        raise InputError(f"{where} names a file twice; one row an image")
    folders = {"", *list_folders(store), *(str(PurePosixPath(file).parent) for file in files)} - {"."}
    there = {
        f"{folder}/{name}".lstrip("/")
        for folder in folders
        for name in (list_images(store, folder) if not folder or store.exists(folder) else ())
    }
    missing, unlisted = sorted(set(files) - there), sorted(there - set(files))
    if missing:
        raise InputError(f"{where} names {missing[0]!r} ({len(missing)} such), which is no image file there")
    if unlisted:
        raise InputError(f"{where} does not name {unlisted[0]!r} ({len(unlisted)} such); add it, or move it away")


def _units(
    store: Store,
    kind: str,
    files: list[str],
    labels: list[int] | None,
    class_names: tuple[str, ...] | None,
    reading: ReadingSpec,
) -> list[SourceUnit]:
    return [
        SourceUnit(
            index=0,
            kind=kind,
            uri=store.uri,
            files=tuple(files[start:stop]),
            labels=None if labels is None else tuple(labels[start:stop]),
            class_names=class_names,
            first_example_id=0,
            num_examples=stop - start,
            reading=reading,
        )
        for start, stop in row_ranges(len(files), MAX_FILES_PER_UNIT)
    ]


def read_folder_unit(unit: SourceUnit) -> Iterator[tuple[str, bytes, int]]:
    """Yields (name, encoded bytes, label) in id order, with a few requests in flight.

    Raises InputError when a listed file has gone, StorageError when the store refuses.
    """
    store = Store(unit.uri)
    labels = unit.labels or (NO_LABEL,) * len(unit.files)
    with ThreadPoolExecutor(1 if store.is_local else _FILES_IN_FLIGHT) as pool:
        for start, stop in row_ranges(len(unit.files), _FILES_IN_FLIGHT):
            contents = pool.map(store.read_bytes, unit.files[start:stop])
            for file, content, label in zip(unit.files[start:stop], contents, labels[start:stop], strict=True):
                yield f"{unit.uri}/{file}", content, label
