"""Opening one file and listing sub-folders of a store, with the project's errors."""

from __future__ import annotations

import os
from typing import Any

from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import InputError, StorageError


def open_file(uri: str) -> Any:
    """Opens a file for binary reading with seeks, without fetching all of it.

    Raises InputError when it is absent, StorageError when the store refuses.
    """
    store = Store(uri)
    try:
        return store.fs.open(store.path(), "rb")
    except FileNotFoundError:
        raise InputError(f"{uri} does not exist") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise StorageError(f"{uri} refused: {reason}; check the path, its permissions and the endpoint") from error


def is_file(store: Store) -> bool:
    """Whether the store's own URI is a file and not a folder."""
    return store.exists() and bool(store.fs.isfile(store.path()))


def list_folders(store: Store) -> list[str]:
    """Sorted names of the sub-folders directly in a folder, without hidden ones."""
    own_path = store.path().rstrip("/")
    paths = [e["name"].rstrip("/") for e in store.fs.ls(store.path(), detail=True) if e["type"] == "directory"]
    names = sorted(path.rsplit("/", 1)[-1] for path in paths if path != own_path)
    return [name for name in names if not name.startswith(".")]
