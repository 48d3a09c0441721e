"""What every kind of source is made of: units to decode, files to open, labels to look up."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rapid_dist.errors import InputError, SpecError
from rapid_dist.specs.reading import ReadingSpec
from rapid_dist.storage import s3
from rapid_dist.storage.store import Store, translated

MAX_FILES_PER_UNIT = 2048
MAX_ROWS_PER_UNIT = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceUnit:
    """A run of consecutive examples that one task decodes; plain types only, so it pickles anywhere.

    index: place of the unit in its source.
    kind: "class_folders", "flat_folder", "listed", "parquet", "npz" or "idx".
    uri: the folder (folder kinds) or the file (parquet, npz, idx).
    files: image paths relative to the folder; empty for the other kinds.
    labels: one class index a file; None where the labels are inside the file, or there are none.
    class_names: what text labels are looked up in and integer labels are bounded by; None when unknown.
    file_class_names: the names by which a Parquet file numbers its integer labels, where they stand in another order
    than class_names; None where integers are class indices.
    row_group: the Parquet row group; row_start, row_stop: rows within the row group or the npz array.
    first_example_id, num_examples: the ids are first_example_id + 0 .. num_examples - 1, in order.
    """

    index: int
    kind: str
    uri: str
    files: tuple[str, ...] = ()
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None
    file_class_names: tuple[str, ...] | None = None
    row_group: int | None = None
    row_start: int | None = None
    row_stop: int | None = None
    first_example_id: int
    num_examples: int
    reading: ReadingSpec = dataclasses.field(default_factory=ReadingSpec)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A discovered data set. Example ids run over the units in order: a pure function of the listing.

    class_names is None when there are no labels, or integer labels that nobody has named.
    notices: what the owner should hear, such as files that were passed over; nothing that was read off an image.
    """

    uri: str
    kind: str
    class_names: tuple[str, ...] | None
    is_labelled: bool
    units: tuple[SourceUnit, ...]
    notices: tuple[str, ...] = ()

    @property
    def num_examples(self) -> int:
        return sum(unit.num_examples for unit in self.units)


def number_units(units: list[SourceUnit]) -> tuple[SourceUnit, ...]:
    """Gives units in listing order their index and first example id, and drops the empty ones."""
    numbered: list[SourceUnit] = []
    next_id = 0
    for unit in units:
        if unit.num_examples:
            numbered.append(dataclasses.replace(unit, index=len(numbered), first_example_id=next_id))
            next_id += unit.num_examples
    return tuple(numbered)


def row_ranges(num_rows: int, max_rows: int = MAX_ROWS_PER_UNIT) -> list[tuple[int, int]]:
    """Cuts 0..num_rows into consecutive (start, stop) ranges of at most max_rows."""
    return [(start, min(start + max_rows, num_rows)) for start in range(0, num_rows, max_rows)]


def row_units(
    kind: str, uri: str, num_rows: int, *, class_names: tuple[str, ...] | None, reading: ReadingSpec
) -> list[SourceUnit]:
    """Returns the units of a file whose images are the rows of one array; number_units gives them their ids."""
    return [
        SourceUnit(
            index=0,
            kind=kind,
            uri=uri,
            class_names=class_names,
            row_start=start,
            row_stop=stop,
            first_example_id=0,
            num_examples=stop - start,
            reading=reading,
        )
        for start, stop in row_ranges(num_rows)
    ]


@contextlib.contextmanager
def open_file(uri: str) -> Iterator[Any]:
    """Opens a file for binary reading with seeks, without fetching all of it.

    Raises InputError when it is absent, StorageError when the store refuses, then or while it is read.
    """
    store = Store(uri)
    with translated(store.uri):
        try:
            file = store.fs.open(store.path(), "rb")
        except FileNotFoundError:
            raise InputError(f"{uri} does not exist") from None
    with file:
        try:
            yield file
        except Exception as error:
            if not store.is_local and s3.is_about_s3(error):
                raise s3.explained(uri, error) from error
            raise


def is_file(store: Store) -> bool:
    """Whether the store's own URI is a file and not a folder."""
    with translated(store.uri):
        return store.exists() and bool(store.fs.isfile(store.path()))


def list_folders(store: Store) -> list[str]:
    """Returns the sorted names of the sub-folders directly in a folder, links to folders among them, no hidden ones."""
    own_path = store.path().rstrip("/")
    with translated(store.uri):
        entries = store.fs.ls(store.path(), detail=True)
    paths = [e["name"].rstrip("/") for e in entries if e["type"] == "directory" or _links_to(e, os.path.isdir)]
    names = sorted(path.rsplit("/", 1)[-1] for path in paths if path != own_path)
    return [name for name in names if not name.startswith(".")]


def list_data_files(store: Store, relative: str = "") -> list[str]:
    """Returns the sorted names of the visible files directly in a folder, links to files among them.

    Raises:
        InputError: A link leads nowhere: an image that its owner counts would be missing.
    """
    folder = store.child(relative) if relative else store
    with translated(folder.uri):
        try:
            entries = folder.fs.ls(folder.path(), detail=True)
        except FileNotFoundError:
            return []
    visible = {e["name"].rsplit("/", 1)[-1]: e for e in entries if not e["name"].rsplit("/", 1)[-1].startswith(".")}
    broken = [name for name, e in sorted(visible.items()) if e.get("islink") and not os.path.exists(e["name"])]
    if broken:
        raise InputError(
            f"{folder.uri}/{broken[0]} is a link to a file that is not there ({len(broken)} such in the folder); fetch "
            "the files (such as `git annex get`, `dvc pull`) or remove the links"
        )
    return sorted(name for name, e in visible.items() if e["type"] == "file" or _links_to(e, os.path.isfile))


def _links_to(entry: dict[str, Any], is_kind: Callable[[str], bool]) -> bool:
    return bool(entry.get("islink")) and is_kind(entry["name"])


SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def split_of(name: str) -> str | None:
    """Returns the split that a word of a file's, folder's or array's name means, None where no word means one.

    >>> split_of("train-00000-of-00002.parquet"), split_of("val_images"), split_of("trainee.parquet")
    ('train', 'validation', None)
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS]
    return SPLITS[words[0]] if words else None


def of_split(names: list[str], split: str | None, where: str) -> list[str]:
    """Returns the names that belong to the stated split, or all where their names tell of one split at most.

    Raises:
        InputError: The names tell of several splits and none is stated, or the stated one is not among them.
    """
    found = sorted({split for split in map(split_of, names) if split is not None})
    if split is None:
        if len(found) > 1:
            likely = "train" if "train" in found else found[0]
            raise InputError(
                f"{where} holds the splits {found} (such as {names[0]!r}); held-out images would be read with the "
                f"others: state one, such as split: {likely} (--split {likely})"
            )
        return names
    wanted = SPLITS.get(split.lower(), split)
    chosen = [name for name in names if split_of(name) == wanted or re.split(r"[-_.]", name)[0] == split]
    if not chosen:
        raise InputError(f"{where} has no split {split!r}; its names tell of {found or 'no split at all'}")
    return chosen


NO_LABEL = -1
_MAX_LABEL = 2**31 - 1


def check_class_names(class_names: tuple[str, ...] | None) -> None:
    """Raises SpecError when class names are given but empty, repeated or not text."""
    if class_names is None:
        return
    if not class_names or not all(isinstance(name, str) and name.strip() for name in class_names):
        raise SpecError(f"data.class_names is {class_names!r}; expected one or more non-empty names")
    if len(set(class_names)) != len(class_names):
        repeated = sorted({name for name in class_names if class_names.count(name) > 1})
        raise SpecError(f"data.class_names repeats {repeated}; name every class once")


def class_indices(labels: Iterable[int | str | None], *, class_names: tuple[str, ...] | None, where: str) -> list[int]:
    """The class index of each label: text is looked up, integers are bounded by the class names.

    None and -1 both mean that an example has no label and become -1.

    Raises InputError on a label outside the classes; `where` says in which file.
    """
    index_of = {name: index for index, name in enumerate(class_names or ())}
    num_classes = len(class_names) if class_names else _MAX_LABEL
    return [_class_index(label, index_of, num_classes, where) for label in labels]


def _class_index(label: int | str | None, index_of: dict[str, int], num_classes: int, where: str) -> int:
    if label is None:
        return NO_LABEL
    if isinstance(label, str):
        if label not in index_of:
            raise InputError(f"{where} has label {label!r}; expected one of {sorted(index_of)}; see data.class_names")
        return index_of[label]
    if not NO_LABEL <= label < num_classes:
        raise InputError(
            f"{where} has label {label}; expected 0 to {num_classes - 1}, or -1 for none; see data.class_names"
        )
    return int(label)


def unstated_classes(where: str, folders: list[str]) -> InputError:
    """The error for private class folders without stated names: numbered by who is there, a label tells of others."""
    return InputError(
        f"{where} is private and has class folders but no class names are stated; numbered by the folders that exist, "
        f"the labels of all records would change with the last record of a class. Add the line  class_names: "
        f"[{', '.join(folders)}]  to data: (or --class-names {','.join(folders)}), in the order you want"
    )


def refuse_unnamed_text(where: str) -> InputError:
    """The error for text labels without class names: their order decides the indices, so it must be given."""
    return InputError(
        f"{where} has text labels but no class names; list them in data.class_names, in the order you want"
    )
