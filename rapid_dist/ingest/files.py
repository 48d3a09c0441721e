"""Opening one file and listing sub-folders of a store, with the project's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rapid_dist.artifacts import s3
from rapid_dist.artifacts.storage import Store, translated
from rapid_dist.errors import InputError


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
    """Sorted names of the sub-folders directly in a folder, without hidden ones."""
    own_path = store.path().rstrip("/")
    with translated(store.uri):
        entries = store.fs.ls(store.path(), detail=True)
    paths = [e["name"].rstrip("/") for e in entries if e["type"] == "directory"]
    names = sorted(path.rsplit("/", 1)[-1] for path in paths if path != own_path)
    return [name for name in names if not name.startswith(".")]
