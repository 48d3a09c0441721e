"""Files that a base has lost: found by their size at once, by their digest when `kb verify` reads them all."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rapid_dist.artifacts.manifest import Manifest, read_file
from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import ArtifactError
from rapid_dist.telemetry import Progress

DAMAGED = "damaged.json"


def damaged_files(store: Store, manifest: Manifest) -> list[str]:
    """Paths that the manifest names and that are missing, of another size, or noted by an earlier verification.

    Costs one listing a folder and reads no data file.
    """
    noted = set(json.loads(store.read_bytes(DAMAGED))) if store.exists(DAMAGED) else set()
    folders = {f.path.rpartition("/")[0] for f in manifest.files}
    sizes = {folder: store.file_sizes(folder) for folder in folders}
    found = []
    for entry in manifest.files:
        folder, _, name = entry.path.rpartition("/")
        if entry.path in noted or sizes[folder].get(name) != entry.bytes:
            found.append(entry.path)
    return sorted(found)


def note_damage(store: Store, paths: Iterable[str]) -> None:
    """Leaves word for the next build; no paths: the base is whole."""
    paths = sorted(paths)
    if paths:
        store.write_bytes(DAMAGED, json.dumps(paths).encode())
    else:
        store.delete(DAMAGED)


def verify_files(store: Store, manifest: Manifest) -> dict[str, str]:
    """Path -> what is wrong with it, after reading every file against its digest; notes what it finds.

    Holds one file at a time.
    """
    found = {}
    progress = Progress("verify", len(manifest.files))
    for done, entry in enumerate(manifest.files, start=1):
        try:
            read_file(store, entry, remedy="build again to make only this anew")
        except ArtifactError as error:
            found[entry.path] = str(error)
        progress.update(done, rows=entry.rows)
    note_damage(store, found)
    return found
