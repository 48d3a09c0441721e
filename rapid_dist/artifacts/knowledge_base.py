"""Shards of a knowledge base as files, and a finished base opened for search in this process."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rapid_dist.artifacts.manifest import FileEntry, Manifest, read_file, write_file
from rapid_dist.artifacts.storage import Store
from rapid_dist.artifacts.tables import table_arrays, table_bytes
from rapid_dist.retrieval.search import KnowledgeBaseSearch, OpenShard
from rapid_dist.retrieval.shard import HnswShard
from rapid_dist.specs import KnowledgeBaseSpec

BUILD = "build_kb"
PROTOTYPES = "prototypes.parquet"


def shard_paths(index: int) -> tuple[str, str]:
    """Paths of a shard's index and of its rows."""
    return f"shards/shard-{index:05d}.hnsw", f"shards/shard-{index:05d}.parquet"


def write_shard(store: Store, index: int, shard: HnswShard, columns: Mapping[str, np.ndarray]) -> list[FileEntry]:
    """columns: trajectory_id, key, value, label, prototype of the shard's rows."""
    hnsw_path, rows_path = shard_paths(index)
    rows = len(columns["trajectory_id"])
    return [
        write_file(store, hnsw_path, shard.to_bytes(), rows=rows),
        write_file(store, rows_path, table_bytes(columns), rows=rows),
    ]


def open_knowledge_base(spec: KnowledgeBaseSpec, store: Store, manifest: Manifest) -> KnowledgeBaseSearch:
    """All shards in this process, each checked against its digest; ef_search is restored from the manifest."""
    entries = {f.path: f for f in manifest.files}
    shards = []
    for index in range(manifest.facts["num_shards"]):
        hnsw_path, rows_path = shard_paths(index)
        columns = table_arrays(read_file(store, entries[rows_path]), where=f"{store.uri}/{rows_path}")
        keys = columns.pop("key")
        hnsw = None
        if spec.method == "hnsw":
            data = read_file(store, entries[hnsw_path])
            ef = manifest.facts["ef_search"]
            hnsw = HnswShard.from_bytes(data, dim=keys.shape[1], space=spec.space, ef_search=ef)
        shards.append(OpenShard(keys=keys, index=hnsw, **columns))
    return KnowledgeBaseSearch(shards, space=spec.space, method=spec.method)

