"""The ingest stage: the units of a source decoded in parallel by Ray Data, on nodes that may see them."""

from __future__ import annotations

from typing import Any

from rapid_dist.ingest.dataset import IngestSettings, ingest_source
from rapid_dist.runtime.parts import map_parts
from rapid_dist.runtime.session import available_cpus
from rapid_dist.storage.manifest import Manifest
from rapid_dist.storage.store import Store


def run_ingest(source_uri: str, out: Store, **settings: Any) -> Manifest:
    """Ingests a source as ingest_source does; settings are those of IngestSettings."""
    what = IngestSettings(source=source_uri, **settings)

    def mapped(*arguments: Any, **more: Any) -> list[dict[str, Any]]:
        # Only now is Ray needed: a source that is refused is refused without it.
        cpus = available_cpus(is_private=what.is_private)
        return map_parts(*arguments, num_actors=cpus, is_private=what.is_private, **more)

    return ingest_source(what, out, mapped)
