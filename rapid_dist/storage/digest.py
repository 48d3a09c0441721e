"""Plain values compared and named: the digest of a spec or manifest, and what differs between two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def differing_keys(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted names whose values differ, as `name: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [*old, *(k for k in new if k not in old)]
        found: list[str] = []
        for name in names:
            found += differing_keys(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
        return found
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def digest_of(plain: Any) -> str:
    """sha256 of the canonical JSON of plain values."""
    # As it will be read back: JSON makes whole-number keys text, and text sorts in another order.
    plain = json.loads(json.dumps(plain))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
