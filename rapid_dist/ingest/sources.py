"""Discovery: from one path to the list of units to decode, by listings, footers and headers alone."""

from __future__ import annotations

from rapid_dist.errors import InputError
from rapid_dist.ingest.folder import (
    INDEX_FILES,
    list_class_units,
    list_flat_units,
    list_images,
    list_listed_units,
    passed_over,
)
from rapid_dist.ingest.idx import is_idx, list_idx_units
from rapid_dist.ingest.npz import list_npz_units
from rapid_dist.ingest.parquet import list_parquet_units
from rapid_dist.ingest.provenance import refuse_artefact
from rapid_dist.ingest.units import (
    SPLITS,
    Source,
    SourceUnit,
    check_class_names,
    is_file,
    list_data_files,
    list_folders,
    number_units,
    of_split,
    unstated_classes,
)
from rapid_dist.specs.reading import ReadingSpec
from rapid_dist.storage.store import Store

__all__ = ["Source", "SourceUnit", "discover"]

_EXPECTED = (
    "expected a folder of class folders, a folder of images with or without metadata.csv, Parquet files, one .npz "
    "file, or one IDX file of images"
)
Found = tuple[str, list[SourceUnit], bool, tuple[str, ...] | None, tuple[str, ...]]  # kind, units, labels, names, notes


def discover(
    uri: str,
    *,
    class_names: tuple[str, ...] | None = None,
    is_private: bool = False,
    reading: ReadingSpec | None = None,
) -> Source:
    """Finds what is at a local path or s3:// prefix and cuts it into units.

    Args:
        uri: A folder or file.
        class_names: The classes in label order; None takes sorted folder names, or what a Parquet file states, but of
            public sources only. Class names are public; the listing is not.
        is_private: Whether nothing about a record may depend on which others there are.
        reading: What the owner states of the files; None states nothing.

    Guarantee: with is_private no label depends on which other files there are.

    Raises:
        SpecError: The class names cannot be used.
        InputError: There is nothing at uri, nothing known, or something that has two readings.
        PrivacyError: An artefact of this program is given as a source.
    """
    check_class_names(class_names)
    store, reading = Store(uri), reading or ReadingSpec()
    refuse_artefact(store)
    if not store.exists():
        raise InputError(f"{uri} does not exist; {_EXPECTED}")
    if not is_file(store):
        found = _in_folder(store, class_names, is_private, reading)
    elif store.uri.lower().endswith(".npz"):
        units, is_labelled, notices = list_npz_units(store.uri, class_names, reading)
        found = ("npz", units, is_labelled, class_names, notices)
    elif store.uri.lower().endswith(".parquet"):
        found = _in_parquet([store.uri], class_names, is_private, reading)
    elif is_idx(store.uri):
        units, is_labelled = list_idx_units(store.uri, class_names, reading)
        found = ("idx", units, is_labelled, class_names, ())
    else:
        raise InputError(f"{uri} is a file of unknown kind; {_EXPECTED}")
    kind, units, is_labelled, class_names, notices = found
    if not any(unit.num_examples for unit in units):
        raise InputError(f"{uri} holds no images; {_EXPECTED}{_elsewhere(store)}")
    return Source(
        uri=store.uri,
        kind=kind,
        class_names=class_names if is_labelled else None,
        is_labelled=is_labelled,
        units=number_units(units),
        notices=notices,
    )


def _in_folder(store: Store, class_names: tuple[str, ...] | None, is_private: bool, reading: ReadingSpec) -> Found:
    files = [name for name in list_data_files(store) if not name.startswith("_")]
    tables = [name for name in files if name.lower().endswith(".parquet")]
    images, folders = list_images(store), list_folders(store)
    index = [name for name in files if name in INDEX_FILES]
    if index:
        if tables or len(index) > 1:
            raise InputError(f"{store.uri} holds {[*index, *tables[:1]]}; {_EXPECTED}: move the others away")
        units, is_labelled, notices = list_listed_units(store, index[0], class_names, reading)
        return "listed", units, is_labelled, class_names, notices
    found = {"Parquet files": tables, "images": images, "folders": folders}
    present = [what for what, names in found.items() if names]
    if len(present) > 1:
        examples = ", ".join(f"{what} (such as {found[what][0]!r})" for what in present)
        raise InputError(f"{store.uri} mixes {examples}; {_EXPECTED}: move the others away")
    if tables:
        chosen = of_split(tables, reading.split, store.uri)
        return _in_parquet([store.child(name).uri for name in chosen], class_names, is_private, reading)
    if folders:
        inner = _folder_inside(store, folders, class_names, reading)
        if inner is not None:
            return _in_folder(store.child(inner), class_names, is_private, reading)
        if is_private and class_names is None:
            raise unstated_classes(store.uri, folders)
        units, class_names = list_class_units(store, folders, class_names, reading, is_private=is_private)
        return "class_folders", units, True, class_names, passed_over(store, folders, is_private=is_private)
    return "flat_folder", list_flat_units(store, reading), False, None, passed_over(store, [], is_private=is_private)


def _folder_inside(
    store: Store, folders: list[str], class_names: tuple[str, ...] | None, reading: ReadingSpec
) -> str | None:
    """Returns the one sub-folder that is the source: the stated split, or `data` of a Hugging Face dataset.

    Raises:
        InputError: The folders are splits and none is stated.
    """
    if folders == ["data"] and any(name.endswith(".parquet") for name in list_data_files(store, "data")):
        return "data"
    are_splits = all(name.lower() in SPLITS for name in folders) and not set(folders) <= set(class_names or ())
    if not are_splits:
        return None
    if reading.split is None:
        likely = next((name for name in folders if SPLITS[name.lower()] == "train"), folders[0])
        raise InputError(
            f"{store.uri} holds the folders {folders}, which look like splits and not like classes; give one of them, "
            f"such as {store.uri}/{likely}, or state split: {likely} (--split {likely}); classes of these names have "
            "to be stated as class names"
        )
    return of_split(folders, reading.split, store.uri)[0]


def _in_parquet(uris: list[str], class_names: tuple[str, ...] | None, is_private: bool, reading: ReadingSpec) -> Found:
    units, is_labelled, class_names, notices = list_parquet_units(
        uris, class_names, reading, reads_names=not is_private
    )
    return "parquet", units, is_labelled, class_names, notices


def _elsewhere(store: Store) -> str:
    """Returns what else lies at a place without images, one level down too, as words that follow a refusal."""
    if is_file(store):
        return ""
    folders = list_folders(store)
    for folder in ["", *folders]:
        names = list_data_files(store, folder)
        data = [name for name in names if name.lower().endswith((".parquet", ".npz", ".npy", ".tar", ".zip"))]
        if data:
            place = f"{folder}/{data[0]}" if folder else data[0]
            return f"; {store.uri} holds {place!r}: give that file or its folder"
    return ""
