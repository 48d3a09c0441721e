"""Discovery: from one path to the list of units to decode, by listings, footers and headers alone."""

from __future__ import annotations

from rapid_dist.errors import InputError
from rapid_dist.ingest.folder import list_class_units, list_flat_units, list_images
from rapid_dist.ingest.npz import list_npz_units
from rapid_dist.ingest.parquet import list_parquet_units
from rapid_dist.ingest.provenance import refuse_artefact
from rapid_dist.ingest.units import (
    Source,
    SourceUnit,
    check_class_names,
    is_file,
    list_folders,
    number_units,
    unstated_classes,
)
from rapid_dist.storage.store import Store

__all__ = ["Source", "SourceUnit", "discover"]

_EXPECTED = "expected a folder of class folders, a folder of images, Parquet files, or one .npz file"


def discover(uri: str, *, class_names: tuple[str, ...] | None = None, is_private: bool = False) -> Source:
    """Finds what is at a local path or s3:// prefix and cuts it into units.

    class_names: the classes in label order; None takes sorted folder names, or what a Parquet file states, but of
    public sources only. Class names are public; the listing is not.

    Guarantee: with is_private no label depends on which other files there are.
    Raises SpecError on unusable class names; InputError when there is nothing, or nothing known, at uri, or private
    labels are text and no class names are stated; PrivacyError when an artefact of this program is given as a source.
    """
    check_class_names(class_names)
    store = Store(uri)
    refuse_artefact(store)
    if not store.exists():
        raise InputError(f"{uri} does not exist; {_EXPECTED}")
    if not is_file(store):
        source = _discover_folder(store, class_names, is_private)
    elif store.uri.lower().endswith(".npz"):
        units, is_labelled = list_npz_units(store.uri, class_names)
        source = _source(store, "npz", units, is_labelled, class_names)
    elif store.uri.lower().endswith(".parquet"):
        source = _discover_parquet(store, [store.uri], class_names, is_private)
    else:
        raise InputError(f"{uri} is a file of unknown kind; {_EXPECTED}")
    if not source.units:
        raise InputError(f"{uri} holds no images; {_EXPECTED}")
    return source


def _discover_folder(store: Store, class_names: tuple[str, ...] | None, is_private: bool) -> Source:
    tables = [
        name for name in store.list_files() if name.lower().endswith(".parquet") and not name.startswith((".", "_"))
    ]
    images = list_images(store)
    folders = list_folders(store)
    found = {"Parquet files": tables, "images": images, "folders": folders}
    present = [what for what, names in found.items() if names]
    if len(present) > 1:
        examples = ", ".join(f"{what} (such as {found[what][0]!r})" for what in present)
        raise InputError(f"{store.uri} mixes {examples}; {_EXPECTED}: move the others away")
    if tables:
        return _discover_parquet(store, [store.child(name).uri for name in tables], class_names, is_private)
    if folders:
        if is_private and class_names is None:
            raise unstated_classes(store.uri, folders)
        units, class_names = list_class_units(store, folders, class_names)
        return _source(store, "class_folders", units, True, class_names)
    return _source(store, "flat_folder", list_flat_units(store), False, None)


def _discover_parquet(store: Store, uris: list[str], class_names: tuple[str, ...] | None, is_private: bool) -> Source:
    units, is_labelled, class_names = list_parquet_units(uris, class_names, reads_names=not is_private)
    return _source(store, "parquet", units, is_labelled, class_names)


def _source(
    store: Store,
    kind: str,
    units: list[SourceUnit],
    is_labelled: bool,
    class_names: tuple[str, ...] | None,
) -> Source:
    return Source(
        uri=store.uri,
        kind=kind,
        class_names=class_names if is_labelled else None,
        is_labelled=is_labelled,
        units=number_units(units),
    )
