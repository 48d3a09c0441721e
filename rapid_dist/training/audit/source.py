"""The layer `source`: an owner's files with and without one record, from ingest to release, record by record.

Neighbours are sources that differ by one file or row. Ids, parts and shares of workers then move; nothing that is known
of any other record may, to the bit, and the sums may move by that one record alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rapid_dist.artifacts.parts import map_serially
from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import RapidDistError
from rapid_dist.ingest.dataset import IngestSettings, ingest_source
from rapid_dist.privacy.audit.checks import Check
from rapid_dist.training.audit.settings import AuditSettings
from rapid_dist.training.audit.source_files import KINDS, REMOVALS, SourceKind, write_source
from rapid_dist.training.audit.source_road import FIELDS, Road, Trace

LAYER = "source"
_FLOAT32_ULP = 2.0**-23


def source_layer(
    settings: AuditSettings,
    work: Store,
    *,
    kinds: Sequence[SourceKind] = KINDS,
    told: Callable[[str], None] = lambda what: None,
) -> tuple[Check, ...]:
    """Returns the checks of every kind of source and every record that may be taken out.

    work: an empty folder on a local disk; sources are files. told hears of each kind that is done.

    Guarantee: inclusion and noise are held fixed by a debugging key and every record is in every step, so whatever
    differs comes from the road itself.
    """
    found: list[Check] = []
    for kind in kinds:
        found += _kind_checks(settings, kind, work.child(kind.name.replace(" ", "-")))
        told(f"source {kind.name}")
    return tuple(found)


def _kind_checks(settings: AuditSettings, kind: SourceKind, work: Store) -> list[Check]:
    road, folder = Road(settings, kind, work), Path(work.path("source"))
    whole = road.take(write_source(kind, folder, settings.seed))
    found = [_read_as_sources(road, kind.name, work)]
    for what, place in REMOVALS.items():
        name = f"{kind.name} without {what}"
        try:
            rest = road.take(write_source(kind, folder, settings.seed, without=place))
        except RapidDistError as error:
            found.append(_equal(f"{name}: ends in {type(error).__name__} ({error}): runs that end in another way", 1))
            continue
        found += _compare(name, whole, rest, road.plan.grid / road.plan.max_grad_norm)
    return found


def _compare(name: str, whole: Trace, rest: Trace, grid: float) -> list[Check]:
    """The checks of one neighbour. grid: of the release, in clipping norms."""
    found = []
    for field in FIELDS:
        changed = rest.records[field] - whole.records[field]
        found.append(_equal(f"{name}: other records whose {field} changes", changed.total()))
    gone = (whole.records["image"] - rest.records["image"]).total()
    found.append(_at_most(f"{name}: records that are gone", gone, 1))
    votes = float(np.linalg.norm((whole.votes - rest.votes).astype(np.float64)))
    found.append(_at_most(f"{name}: the votes move by (L2)", votes, 1))
    moved = whole.clipped_sums - rest.clipped_sums
    lengths = np.linalg.norm(moved, axis=1)
    rounding = 1e-6 + _FLOAT32_ULP * float(np.linalg.norm(whole.clipped_sums, axis=1).max())
    found.append(_at_most(f"{name}: the clipped sum moves by, in clipping norms", lengths.max(), 1 + rounding))
    otherwise = np.abs(whole.released - rest.released - moved).max()
    found.append(_at_most(f"{name}: the release moves otherwise than the sum by", otherwise, 2 * grid + rounding))
    return found


def _read_as_sources(road: Road, name: str, work: Store) -> Check:
    """A dataset's own parts given as raw images, from their folder and from elsewhere, as either class."""
    dataset, accepted = road.dataset(), 0
    elsewhere = work.child("taken-out")
    for file in dataset.list_files("parts"):
        elsewhere.write_bytes(file, dataset.read_bytes(f"parts/{file}"))
    for number, (source, privacy_class) in enumerate(
        (source, kind) for source in (dataset.child("parts"), elsewhere) for kind in ("public", "private")
    ):
        settings = IngestSettings(source=source.uri, privacy_class=privacy_class, image_size=8, num_channels=1)
        try:
            ingest_source(settings, work.child(f"read-again-{number}"), map_serially)
            accepted += 1
        except RapidDistError:
            pass
    return _equal(f"{name}: parts of a dataset that are read as a source", accepted)


def _equal(name: str, found: float) -> Check:
    return Check(layer=LAYER, name=name, found=float(found), low=0, high=0)


def _at_most(name: str, found: float, high: float) -> Check:
    return Check(layer=LAYER, name=name, found=float(found), high=float(high))
