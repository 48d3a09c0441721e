"""Images as files: a folder of class sub-folders, or one flat folder without labels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from rapid_dist.errors import InputError
from rapid_dist.ingest.units import MAX_FILES_PER_UNIT, NO_LABEL, SourceUnit, list_folders, row_ranges
from rapid_dist.storage.store import Store

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_FILES_IN_FLIGHT = 32


def list_images(store: Store, relative: str = "") -> list[str]:
    """Sorted names of the visible image files directly in a folder; other files are not data."""
    names = store.list_files(relative)
    return [name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]


def list_flat_units(store: Store) -> list[SourceUnit]:
    """Units of a flat folder of images. Raises nothing: an empty folder has no units."""
    return _units(store, "flat_folder", list_images(store), None, None)


def list_class_units(
    store: Store, folders: list[str], class_names: tuple[str, ...] | None
) -> tuple[list[SourceUnit], tuple[str, ...]]:
    """Units of a folder of class folders, and the class names: the given ones, or the sorted folder names.

    Files are listed by sorted folder, then sorted name, whatever the order of the classes.

    Raises InputError when a folder is no known class, or holds further folders.
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
    for folder in folders:
        nested = list_folders(store.child(folder))
        if nested:
            raise InputError(
                f"{store.uri}/{folder} holds folders {nested}; expected images directly inside a class folder"
            )
        names = list_images(store, folder)
        files += [f"{folder}/{name}" for name in names]
        labels += [class_names.index(folder)] * len(names)
    return _units(store, "class_folders", files, labels, class_names), class_names


def _units(
    store: Store, kind: str, files: list[str], labels: list[int] | None, class_names: tuple[str, ...] | None
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
