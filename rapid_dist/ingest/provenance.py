"""What may not be a source: artefacts of this program, whose class is known, and one source in two roles."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping

from rapid_dist.errors import InputError, PrivacyError, RapidDistError
from rapid_dist.storage.manifest import MANIFEST
from rapid_dist.storage.stage import BEGUN
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import OWN_METADATA

_MARKS = {MANIFEST: {"stage", "privacy_class", "schema_version"}, BEGUN: {"stage", "spec", "inputs"}}


def refuse_artefact(store: Store) -> None:
    """Raises PrivacyError when a source is an artefact's folder or lies inside one, finished or not.

    Its images have a class and a ledger already. As a raw source they would get another class, or another ledger, and
    nobody would add up what was spent on the same people.
    """
    for folder in _folders_above(store):
        found = _artefact_at(folder)
        if found is None:
            continue
        what = f"{found.get('privacy_class') or 'unfinished'} artefact of stage {found['stage']!r}"
        raise PrivacyError(
            f"{store.uri} lies in the {what} at {folder.uri}; it is no raw source: give the folder of the dataset "
            "itself as data.private or data.public, or the source that it was made from"
        )


def refuse_own_table(uri: str, metadata: Mapping[bytes, bytes] | None) -> None:
    """Raises PrivacyError when a Parquet file was written by this program, wherever it lies now.

    metadata: of its Arrow schema.
    """
    own = {name: value for name, value in (metadata or {}).items() if name.startswith(OWN_METADATA)}
    if own:
        stage, kind = (own.get(OWN_METADATA + name, b"unknown").decode() for name in (b"stage", b"privacy_class"))
        raise PrivacyError(
            f"{uri} is a part of a {kind} dataset of this program (stage {stage!r}), not a raw source; give the folder "
            "of the dataset itself, where its ledger lies"
        )


def refuse_shared_sources(**sources: str | None) -> None:
    """Raises InputError when two roles, such as private and public, name the same place, or one inside the other.

    sources: role -> URI, None for a role that is not given.
    """
    given = {role: _resolved(uri) for role, uri in sources.items() if uri is not None}
    for (one, here), (other, there) in itertools.combinations(given.items(), 2):
        if here == there:
            raise InputError(f"data.{one} and data.{other} are both {sources[one]}; give two different sources")
        if f"{here}/".startswith(f"{there}/") or f"{there}/".startswith(f"{here}/"):
            raise InputError(
                f"data.{one} {sources[one]} and data.{other} {sources[other]} lie one inside the other; keep them "
                "apart, so that no image is read in both roles"
            )


def refuse_source_inside(source_uri: str, out: Store) -> None:
    """Raises InputError when the dataset would be written around its own source: it could not be read again then."""
    if f"{_resolved(source_uri)}/".startswith(f"{_resolved(out.uri)}/"):
        raise InputError(f"{source_uri} lies in the folder {out.uri} to be written; choose another --out")


def _resolved(uri: str) -> str:
    store = Store(uri)
    return os.path.realpath(store.uri) if store.is_local else store.uri.rstrip("/")


def _folders_above(store: Store) -> Iterator[Store]:
    """The source itself and every folder above it, up to the root of the disk or bucket."""
    here = _resolved(store.uri)
    scheme, rest = ("s3://", here.removeprefix("s3://")) if here.startswith("s3://") else ("/", here.lstrip("/"))
    parts = rest.split("/")
    for length in range(len(parts), 0, -1):
        yield Store(scheme + "/".join(parts[:length]))


def _artefact_at(folder: Store) -> dict[str, object] | None:
    """What a folder's manifest, or the note of a stage that began there, says; None when it is no artefact."""
    for name, keys in _MARKS.items():
        # A folder above the source may be one that cannot be read at all: nothing of ours, then.
        with contextlib.suppress(RapidDistError, ValueError, OSError):
            if folder.exists(name):
                found = json.loads(folder.read_bytes(name))
                if isinstance(found, dict) and keys <= found.keys():
                    return found
    return None
