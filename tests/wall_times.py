"""Finds wall times in what may be shared, by their names."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rapid_dist.storage.store import Store

_TIME = re.compile(r"(^|_)seconds($|_)")


def keys_of_times(value: Any) -> list[str]:
    """The keys at any depth of plain JSON values that are named seconds or ..._seconds."""
    return [key for key in _keys(value) if _TIME.search(key)]


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _keys(item)


def times_in_files(store: Store, names: list[str]) -> dict[str, list[str]]:
    """File -> the keys of times in its JSON, its Parquet columns and metadata, or its safetensors header."""
    found = {name: keys_of_times(_readable(name, store.read_bytes(name))) for name in names}
    return {name: keys for name, keys in found.items() if keys}


def _readable(name: str, data: bytes) -> Any:
    if name.endswith(".json"):
        return json.loads(data)
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        schema = pq.read_schema(io.BytesIO(data))
        return [_opened(schema.metadata or {}), dict.fromkeys(schema.names)]
    if name.endswith(".safetensors"):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return [header, _opened(header.get("__metadata__", {}))]
    return None


def _opened(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    """Metadata with the values opened that are JSON."""
    opened = {}
    for key, value in metadata.items():
        key, value = (part.decode(errors="replace") if isinstance(part, bytes) else part for part in (key, value))
        try:
            opened[key] = json.loads(value)
        except ValueError:
            opened[key] = None
    return opened
