"""What a base is said to be, measured again: rows of every shard, and recall of index and routing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rapid_dist.artifacts.knowledge_base import QUERIES, named_file, open_router, open_shard, read_table, shard_files
from rapid_dist.artifacts.manifest import Manifest
from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import ArtifactError
from rapid_dist.retrieval.merge import Neighbors
from rapid_dist.retrieval.recall import RecallTally
from rapid_dist.retrieval.search import OpenShard
from rapid_dist.telemetry import Progress

NUM_NEIGHBORS = 10


def shard_answers(shard: OpenShard, queries: np.ndarray, num_neighbors: int, space: str) -> tuple[Neighbors, Neighbors]:
    """What one shard finds by its index, and exactly."""
    found, truth = (
        shard.query(queries, num_neighbors=num_neighbors, space=space, method=method) for method in ("hnsw", "exact")
    )
    return found, truth


def recall_facts(
    store: Store, manifest: Manifest, answers: Iterable[tuple[Neighbors, Neighbors]], *, space: str, num_neighbors: int
) -> dict[str, Any]:
    """Recall of a version, from what its shards answered to its recall queries, in the order of the shards."""
    queries = read_table(store, named_file(manifest, QUERIES))["key"]
    tally = RecallTally(open_router(store, manifest, space=space).order(queries), num_neighbors=num_neighbors)
    for position, (found, truth) in enumerate(answers):
        tally.add(position, found=found, truth=truth)
    return tally.facts()


def measure_base(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Counts and recall of a finished version, one shard in memory at a time; every file is checked on the way.

    Raises ArtifactError when a shard's rows, index or count do not agree with each other or with the manifest.
    """
    space, ef_search = manifest.spec["knowledge_base"]["space"], manifest.facts["ef_search"]
    queries = read_table(store, named_file(manifest, QUERIES))["key"]
    num_neighbors = min(NUM_NEIGHBORS, manifest.facts["num_trajectories"])
    shards = shard_files(manifest)
    progress, rows = Progress("recall", len(shards)), []

    def answers() -> Iterable[tuple[Neighbors, Neighbors]]:
        for files in shards:
            shard = open_shard(store, files, space=space, ef_search=ef_search)
            if len(shard.keys) != files.rows.rows:
                raise ArtifactError(
                    f"{store.uri}/{files.rows.path} has {len(shard.keys)} rows; its manifest says {files.rows.rows}"
                )
            rows.append(len(shard.keys))
            yield shard_answers(shard, queries, num_neighbors, space)
            progress.update(len(rows), rows=rows[-1])

    recall = recall_facts(store, manifest, answers(), space=space, num_neighbors=num_neighbors)
    if sum(rows) != manifest.facts["num_trajectories"]:
        raise ArtifactError(
            f"{store.uri} holds {sum(rows)} trajectories; its manifest says {manifest.facts['num_trajectories']}"
        )
    return {"num_trajectories": sum(rows), "num_shards": len(rows), **recall}


def base_stats(store: Store, manifest: Manifest, versions: Iterable[int]) -> dict[str, Any]:
    """What the manifest says of a version, without reading any data: counts, sizes, recall as measured when built."""
    shards, facts = shard_files(manifest), manifest.facts
    kinds: dict[str, int] = {}
    for entry in manifest.files:
        folder, _, name = entry.path.rpartition("/")
        kind = {"shards": name.rpartition(".")[2]}.get(folder, folder or "other")
        names = {"hnsw": "indexes", "parquet": "rows", "routing": "other"}
        kinds[names.get(kind, kind)] = kinds.get(names.get(kind, kind), 0) + entry.bytes
    return {
        "uri": store.uri,
        "digest": manifest.digest,
        "version": facts["version"],
        "kept_versions": sorted(versions),
        "num_trajectories": facts["num_trajectories"],
        "num_shards": len(shards),
        "rows_per_shard": {s.name: s.rows.rows for s in shards},
        "sets": facts["sets"],
        "assignment": manifest.spec["knowledge_base"]["assignment"],
        "bytes": dict(sorted(kinds.items())),
        "recall": {name: value for name, value in facts.items() if name.startswith("recall_at_")},
        "routing": facts["routing"],
    }
