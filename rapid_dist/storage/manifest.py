"""The manifest a stage writes last: what made the artefact, from what, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rapid_dist.errors import ArtifactError, InputError, PrivacyError
from rapid_dist.storage.digest import digest_of
from rapid_dist.storage.store import Store

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CHUNK_BYTES = 8 * 2**20
PRIVACY_CLASSES = ("public", "private", "dp")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artefact: path relative to its folder, rows (0 where it has none), bytes, sha256."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished stage left. `facts` are the stage's own figures; `seconds` is left out of the digest.

    Guarantee: one of class dp holds no seconds, whoever makes, copies or reads it. Its stage read private data, or
    what was made from them, and how long that took is no function of the noised release. The run's owner's log
    (artifacts.owner_log) has it.
    """

    stage: str
    privacy_class: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, str]  # name -> digest of that input's manifest
    files: Sequence[FileEntry]
    facts: Mapping[str, Any] = field(default_factory=dict)
    not_private_reasons: Sequence[str] = ()
    seconds: float | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.privacy_class not in PRIVACY_CLASSES:
            raise PrivacyError(f"privacy class is {self.privacy_class!r}; expected public, private or dp")
        if self.privacy_class == "dp":
            object.__setattr__(self, "seconds", None)

    @property
    def digest(self) -> str:
        """sha256 of everything but how long it took."""
        plain = asdict(self)
        del plain["seconds"]
        return digest_of(plain)

    @property
    def spec_digest(self) -> str:
        return digest_of(self.spec)

    def to_bytes(self) -> bytes:
        plain = {**asdict(self), "spec_digest": self.spec_digest, "digest": self.digest}
        if self.seconds is None:
            del plain["seconds"]
        return json.dumps(plain, indent=1, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Manifest:
        """Raises ArtifactError when the bytes are no manifest, of another version, or altered."""
        try:
            plain = json.loads(data)
            version, digest = plain["schema_version"], plain.pop("digest")
            plain.pop("spec_digest")
            plain["files"] = [FileEntry(**entry) for entry in plain["files"]]
            manifest = cls(**plain)
        except (ValueError, KeyError, TypeError):
            raise ArtifactError(f"{where} is not a manifest of this program; remove its folder and run again") from None
        if version != SCHEMA_VERSION:
            raise ArtifactError(f"{where} has schema version {version}; this program reads {SCHEMA_VERSION}")
        if manifest.digest != digest:
            raise ArtifactError(f"{where} does not match its own digest: it was altered; remove its folder")
        return manifest


def file_entry(path: str, data: bytes, *, rows: int = 0) -> FileEntry:
    """The entry of a file that holds data."""
    return FileEntry(path=path, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_file(store: Store, path: str, data: bytes, *, rows: int = 0) -> FileEntry:
    """Writes a file whole and returns its entry for the manifest."""
    store.write_bytes(path, data)
    return file_entry(path, data, rows=rows)


def read_file(store: Store, entry: FileEntry, *, remedy: str = "remove the folder and run the stage again") -> bytes:
    """The bytes of a manifest's file. Raises ArtifactError when they are missing or do not match the digest."""
    try:
        data = store.read_bytes(entry.path)
    except InputError:
        raise ArtifactError(f"{store.uri}/{entry.path} is missing though its manifest names it; {remedy}") from None
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ArtifactError(
            f"{store.uri}/{entry.path} does not match its digest: got {len(data)} bytes, expected {entry.bytes} with "
            f"sha256 {entry.sha256[:12]}...; {remedy}"
        )
    return data


def copy_file(source: Store, entry: FileEntry, out: Store, *, remedy: str) -> FileEntry:
    """Takes a manifest's file over into another folder, under the same path, a chunk at a time.

    Raises ArtifactError, and leaves nothing in out, when the file is missing or does not match its digest.
    """
    out.write_chunks(entry.path, _checked_chunks(source, entry, remedy))
    return entry


def _checked_chunks(source: Store, entry: FileEntry, remedy: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    try:
        with source.open_reader(entry.path) as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
    except InputError:
        raise ArtifactError(f"{source.uri}/{entry.path} is missing though its manifest names it; {remedy}") from None
    if digest.hexdigest() != entry.sha256:
        raise ArtifactError(f"{source.uri}/{entry.path} does not match its digest; {remedy}")


def read_manifest(store: Store) -> Manifest | None:
    """The manifest of a finished artefact, or None where there is none."""
    if not store.exists(MANIFEST):
        return None
    return Manifest.from_bytes(store.read_bytes(MANIFEST), where=f"{store.uri}/{MANIFEST}")


def write_manifest(store: Store, manifest: Manifest) -> Manifest:
    """Finishes an artefact: all its files must already be written."""
    store.write_bytes(MANIFEST, manifest.to_bytes())
    return manifest


def open_artifact(store: Store, *, stage: str, privacy_classes: Sequence[str] = PRIVACY_CLASSES) -> Manifest:
    """The manifest of a finished input of a stage.

    Raises ArtifactError when it is absent or of another stage, PrivacyError when its class is not one of those
    allowed. Guarantee: public stages pass ("public",), so nothing private can reach them.
    """
    manifest = read_manifest(store)
    if manifest is None:
        raise ArtifactError(f"{store.uri} has no {MANIFEST}; run the stage {stage!r} first")
    if manifest.stage != stage:
        raise ArtifactError(f"{store.uri} was made by stage {manifest.stage!r}; expected {stage!r}")
    if manifest.privacy_class not in privacy_classes:
        raise PrivacyError(
            f"{store.uri} is {manifest.privacy_class}; expected {' or '.join(privacy_classes)} data here"
        )
    return manifest
