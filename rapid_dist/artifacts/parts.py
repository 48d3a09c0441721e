"""Parts of a stage's output that were finished before the stage was: what lets a killed map resume where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def map_serially(
    make_fn: Callable[..., Callable[[int], dict[str, Any]]],
    arguments: tuple[Any, ...],
    num_parts: int,
    *,
    store: Store,
    name: str,
    **_: Any,
) -> list[dict[str, Any]]:
    """Returns fn(0) .. fn(num_parts - 1), fn = make_fn(*arguments), one after the other in this process.

    It resumes as the map on Ray does; settings of that map are accepted and mean nothing here.
    """
    finished = FinishedParts(store, name)
    results = {i: r for i, r in finished.load().items() if i < num_parts}
    missing = [i for i in range(num_parts) if i not in results]
    fn = make_fn(*arguments) if missing else None
    for index in missing:
        results[index] = json.loads(json.dumps(fn(index)))
        finished.add(index, results[index])
    return [results[i] for i in range(num_parts)]
