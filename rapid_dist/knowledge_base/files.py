"""A version of a knowledge base as files: its shards, how each came to be, and opening them for search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rapid_dist.knowledge_base.clusters import Router
from rapid_dist.knowledge_base.index import HnswShard
from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard
from rapid_dist.specs import KnowledgeBaseSpec
from rapid_dist.storage.manifest import FileEntry, Manifest, file_entry, read_file
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import read_table_group, table_arrays, table_bytes

BUILD = "build_kb"
PROTOTYPES, CLUSTERS, QUERIES = "prototypes", "clusters", "queries"
REMEDY = "run `rapid-dist kb verify` on it, then build again: only what is damaged is made anew"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """How a shard came to be: enough to make it again from the trajectories.

    pieces: (set, group) pairs, the row groups of a set's trajectory files that are its rows; cluster: the number
    of its cluster of keys, 0 where shards are spread by hash.
    """

    number: int
    pieces: Sequence[Sequence[int]]
    cluster: int = 0

    @property
    def name(self) -> str:
        return f"shard-{self.number:05d}"


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """The files of one shard: the index, the rows beside it, and the public centroids that route to it."""

    name: str
    index: FileEntry
    rows: FileEntry
    centroids: FileEntry


def write_addressed(store: Store, stem: str, suffix: str, data: bytes, *, rows: int = 0) -> FileEntry:
    """Writes a file whose name holds the digest of its content, so that no writer ever changes another's file."""
    digest = file_entry("", data).sha256
    entry = file_entry(f"{stem}-{digest[:12]}{suffix}", data, rows=rows)
    store.write_bytes(entry.path, data)
    return entry


def write_shard(
    store: Store, number: int, shard: HnswShard, columns: Mapping[str, np.ndarray], centroids: np.ndarray
) -> list[FileEntry]:
    """columns: trajectory_id, key, value, label, prototype of the shard's rows; centroids: (m, d)."""
    name, rows = ShardRecord(number=number, pieces=()).name, len(columns["trajectory_id"])
    return [
        write_addressed(store, f"shards/{name}", ".hnsw", shard.to_bytes(), rows=rows),
        write_addressed(store, f"shards/{name}", ".parquet", table_bytes(columns), rows=rows),
        write_addressed(store, f"routing/{name}", ".parquet", table_bytes({"centroid": centroids})),
    ]


def shard_records(manifest: Manifest) -> list[ShardRecord]:
    """Returns how each shard of the version came to be, in the order of their numbers."""
    return [ShardRecord(**record) for record in manifest.facts["shards"]]


def shard_name_of(path: str) -> str | None:
    """The shard that a file of a base belongs to, None for other files."""
    folder, _, file = path.rpartition("/")
    return "-".join(file.split(".")[0].split("-")[:2]) if folder in ("shards", "routing") else None


def shard_files(manifest: Manifest) -> list[ShardFiles]:
    """The shards of a version in the order of their numbers: exactly those that its manifest names."""
    found: dict[str, dict[str, FileEntry]] = {}
    for entry in manifest.files:
        name = shard_name_of(entry.path)
        if name is not None:
            kind = "centroids" if entry.path.startswith("routing/") else entry.path.rpartition(".")[2]
            found.setdefault(name, {})[kind] = entry
    return [
        ShardFiles(name=name, index=kinds["hnsw"], rows=kinds["parquet"], centroids=kinds["centroids"])
        for name, kinds in sorted(found.items())
    ]


def named_file(manifest: Manifest, stem: str) -> FileEntry:
    """Returns the entry of the one top-level file with that stem."""
    return next(f for f in manifest.files if "/" not in f.path and f.path.split(".")[0].split("-")[0] == stem)


def read_table(store: Store, entry: FileEntry) -> dict[str, np.ndarray]:
    """A table of a base, checked against its digest."""
    return table_arrays(read_file(store, entry, remedy=REMEDY), where=f"{store.uri}/{entry.path}")


def read_pieces(
    store: Store,
    trajectories: Mapping[int, Sequence[FileEntry]],
    record: ShardRecord,
    columns: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """The rows of a shard by ascending id: its row groups of the trajectory files and nothing else of them.

    trajectories: set number -> its files; columns: None for all, else trajectory_id among them. Empty when the shard
    has no row.
    """
    tables = []
    for number, group in record.pieces:
        for entry in trajectories[number]:
            where = f"{store.uri}/{entry.path}"
            with store.open_reader(entry.path) as file:
                table = read_table_group(file, group, where=where, columns=columns)
            if table is not None:
                tables.append(table)
    if not tables:
        return {}
    order = np.argsort(np.concatenate([t["trajectory_id"] for t in tables]))
    # Column by column, so that no more than one of them is held twice.
    return {name: np.concatenate([t.pop(name) for t in tables])[order] for name in list(tables[0])}


def trajectory_files(manifest: Manifest) -> dict[int, list[FileEntry]]:
    """Set number -> its trajectory files, in the order of their parts."""
    found: dict[int, list[FileEntry]] = {}
    for entry in sorted(manifest.files, key=lambda f: f.path):
        if entry.path.startswith("trajectories/set-"):
            found.setdefault(int(entry.path.split("/")[1].split("-")[1]), []).append(entry)
    return found


def open_shard(store: Store, files: ShardFiles, *, space: str, ef_search: int, with_index: bool = True) -> OpenShard:
    """One shard in this process, checked against its digests; ef_search is given, since hnswlib does not save it."""
    columns = read_table(store, files.rows)
    keys, ids = columns.pop("key"), columns["trajectory_id"]
    hnsw = None
    if with_index:
        data = read_file(store, files.index, remedy=REMEDY)
        hnsw = HnswShard.from_bytes(data, keys=keys, trajectory_ids=ids, space=space, ef_search=ef_search)
    return OpenShard(keys=keys, index=hnsw, **columns)


def open_router(store: Store, manifest: Manifest, *, space: str) -> Router:
    """Returns the router of a version, from the centroids of its shards."""
    return Router([read_table(store, files.centroids)["centroid"] for files in shard_files(manifest)], space=space)


def open_knowledge_base(spec: KnowledgeBaseSpec, store: Store, manifest: Manifest) -> KnowledgeBaseSearch:
    """All shards of the version that the manifest is, in this process; ef_search is restored from the manifest."""
    ef, with_index = manifest.facts["ef_search"], spec.method == "hnsw"
    shards = [
        open_shard(store, files, space=spec.space, ef_search=ef, with_index=with_index)
        for files in shard_files(manifest)
    ]
    router = None if spec.num_probes is None else open_router(store, manifest, space=spec.space)
    return KnowledgeBaseSearch(shards, space=spec.space, method=spec.method, router=router, num_probes=spec.num_probes)


def plain_records(records: Sequence[ShardRecord]) -> list[dict[str, Any]]:
    """As they stand in a manifest's facts."""
    ordered = sorted(records, key=lambda r: r.number)
    return [{**asdict(record), "pieces": [list(piece) for piece in record.pieces]} for record in ordered]
