"""Parts of a stage's output that were finished before the stage was: what lets a killed map go on where it was."""

from __future__ import annotations

import json
from typing import Any

from rapid_dist.artifacts.storage import Store


class FinishedParts:
    """Results of finished parts, one small JSON file each, kept until the manifest is written."""

    def __init__(self, store: Store, name: str):
        self.store, self.folder = store, f"progress-{name}"

    def load(self) -> dict[int, dict[str, Any]]:
        """Part index -> result, for all parts finished so far."""
        found = {}
        for file in self.store.list_files(self.folder):
            if file.endswith(".json"):
                found[int(file.removesuffix(".json"))] = json.loads(self.store.read_bytes(f"{self.folder}/{file}"))
        return found

    def add(self, index: int, result: dict[str, Any]) -> None:
        """Marks a part as finished; its files must already be written."""
        self.store.write_bytes(f"{self.folder}/{index:06d}.json", json.dumps(result).encode())

    def forget(self, index: int) -> None:
        """Lets a part be done again."""
        self.store.delete(f"{self.folder}/{index:06d}.json")

    def clear(self) -> None:
        """Forgets all of it, once the manifest is written."""
        self.store.delete_folder(self.folder)
