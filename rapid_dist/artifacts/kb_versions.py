"""Versions of a knowledge base: each is one manifest, made once; the newest is also the folder's manifest.json.

A version is committed by creating its file exclusively, so of two writers from the same version one wins and the
other is told. Files of old versions stay until they are dropped on purpose: a reader of an old version, or a run
that names it, loses nothing by an append or a compaction.
"""

from __future__ import annotations

from rapid_dist.artifacts.knowledge_base import BUILD
from rapid_dist.artifacts.manifest import MANIFEST, Manifest, open_artifact, read_manifest
from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import ArtifactError

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
