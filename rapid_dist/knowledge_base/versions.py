"""The versions of a knowledge base: commit, open, damage to files, and claims measured again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from rapid_dist.errors import ArtifactError
from rapid_dist.knowledge_base.files import BUILD, QUERIES, named_file, open_router, open_shard, read_table, shard_files
from rapid_dist.knowledge_base.neighbors import Neighbors, RecallTally
from rapid_dist.knowledge_base.search import OpenShard
from rapid_dist.storage.manifest import MANIFEST, Manifest, open_artifact, read_file, read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import Progress

VERSIONS = "versions"


def version_of(manifest: Manifest) -> int:
    """1 for a fresh build, one more for every append and compaction."""
    return int(manifest.facts["version"])


def read_versions(store: Store) -> dict[int, Manifest]:
    """All versions that are still kept."""
    found = {}
    for file in store.list_files(VERSIONS):
        path = f"{VERSIONS}/{file}"
        found[int(file.removesuffix(".json"))] = Manifest.from_bytes(
            store.read_bytes(path), where=f"{store.uri}/{path}"
        )
    return found


def commit_version(store: Store, manifest: Manifest) -> Manifest:
    """Makes the manifest the newest version; all its files must already be written.

    Another process that committed the same work meanwhile is agreed with: its manifest is returned.
    Raises ArtifactError when another command made this version of something else.
    """
    version = version_of(manifest)
    if not store.create_exclusive(f"{VERSIONS}/{version:06d}.json", manifest.to_bytes()):
        path = f"{VERSIONS}/{version:06d}.json"
        theirs = Manifest.from_bytes(store.read_bytes(path), where=f"{store.uri}/{path}")
        publish_newest(store)
        _delete_files(store, {f.path for f in manifest.files} - _named(store))
        if not _same_work(theirs, manifest):
            raise ArtifactError(
                f"{store.uri} was changed by another command meanwhile and is now at version {version}; "
                "run the same line again"
            )
        return theirs
    publish_newest(store)
    return manifest


def publish_newest(store: Store) -> Manifest | None:
    """Makes manifest.json the newest version, which a writer that died in between may have left undone."""
    while True:
        files = store.list_files(VERSIONS)
        if not files:
            return read_manifest(store)
        data = store.read_bytes(f"{VERSIONS}/{files[-1]}")
        if not store.exists(MANIFEST) or store.read_bytes(MANIFEST) != data:
            store.write_bytes(MANIFEST, data)
        # A slower writer may have put an older version there after a newer one was made: look again.
        if store.list_files(VERSIONS)[-1] == files[-1]:
            return Manifest.from_bytes(data, where=f"{store.uri}/{MANIFEST}")


def open_newest(store: Store) -> Manifest:
    """The newest version of a finished base, for a command that changes it."""
    publish_newest(store)
    return open_artifact(store, stage=BUILD, privacy_classes=("public",))


def drop_old_versions(store: Store) -> int:
    """Deletes all versions but the newest, and the files that only they name; returns how many files went.

    Only whoever knows that no run still reads an old version can say that this is safe.
    """
    versions = read_versions(store)
    old = [versions[v] for v in sorted(versions)[:-1]]
    kept = {f.path for f in open_newest(store).files}
    paths = {f.path for manifest in old for f in manifest.files} - kept
    _delete_files(store, paths)
    for version in sorted(versions)[:-1]:
        store.delete(f"{VERSIONS}/{version:06d}.json")
    return len(paths)


def _same_work(one: Manifest, other: Manifest) -> bool:
    same_result = one.facts["shards"] == other.facts["shards"]
    return (one.stage, one.spec, dict(one.inputs)) == (other.stage, other.spec, dict(other.inputs)) and same_result


def _named(store: Store) -> set[str]:
    return {f.path for manifest in read_versions(store).values() for f in manifest.files}


def _delete_files(store: Store, paths: set[str]) -> None:
    for path in sorted(paths):
        store.delete(path)


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
