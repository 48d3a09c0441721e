"""The ingest stage: units of a source decoded in parallel into image parts, with a privacy class that was stated."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rapid_dist.artifacts.images import INGEST, ImageTable, iterate_images, write_images
from rapid_dist.artifacts.manifest import FileEntry, Manifest, open_artifact
from rapid_dist.artifacts.parts import FinishedParts
from rapid_dist.artifacts.stage import StageFolder
from rapid_dist.artifacts.storage import Store
from rapid_dist.distributed.mapping import map_parts
from rapid_dist.distributed.session import available_cpus
from rapid_dist.errors import InputError, PrivacyError
from rapid_dist.ingest.decode import mixed_shapes_error
from rapid_dist.ingest.sources import SourceUnit, discover
from rapid_dist.telemetry import headed, say


def run_ingest(
    source_uri: str,
    out: Store,
    *,
    privacy_class: str,
    image_size: int | None = None,
    num_channels: int | None = None,
    class_names: tuple[str, ...] | None = None,
    num_classes: int = 0,
    skip_corrupt: bool = False,
    drop_equal_to: Store | None = None,
) -> Manifest:
    """Writes `parts/part-NNNNN.parquet` and a manifest; skips what is already there.

    privacy_class: public or private, never guessed. num_classes > 0 asks for a label below it on every record.
    drop_equal_to: an ingested public dataset; private records whose pixels equal one of its are left out.

    Guarantee: a record is dropped as a function of its own pixels and public data; public records are never dropped.
    """
    if privacy_class not in ("public", "private"):
        raise PrivacyError(f"privacy class is {privacy_class!r}; give --privacy-class public or private")
    if drop_equal_to is not None and privacy_class != "private":
        raise PrivacyError("only private records may be dropped for equality with public ones, never the other way")
    inputs = {}
    if drop_equal_to is not None:
        inputs["public"] = open_artifact(drop_equal_to, stage=INGEST, privacy_classes=("public",)).digest
    spec = {
        "source": source_uri,
        "privacy_class": privacy_class,
        "image_size": image_size,
        "num_channels": num_channels,
        "class_names": list(class_names) if class_names else None,
        "num_classes": num_classes,
        "skip_corrupt": skip_corrupt,
    }
    source = discover(source_uri, class_names=class_names)
    if num_classes and not source.is_labelled:
        raise InputError(
            f"{source_uri} has no labels but classes are asked for; use class sub-folders, a label column, "
            "or set data.num_classes to 0"
        )
    # A source that was refused asks for other settings (skip_corrupt, image_size): they may use the same folder.
    folder = StageFolder(out, stage=INGEST, spec=spec, inputs=inputs, disposable=("parts", f"progress-{INGEST}"))
    if folder.finished is not None:
        return folder.finished
    results = map_parts(
        _make_unit_reader,
        (out, source.units, image_size, num_channels, num_classes, skip_corrupt, drop_equal_to),
        len(source.units),
        store=out,
        name=INGEST,
        num_actors=available_cpus(is_private=privacy_class == "private"),
        is_private=privacy_class == "private",
        # Only the digests of a public dataset are worth keeping between units.
        keeps_state=drop_equal_to is not None,
    )
    facts = _facts(source_uri, results, source.class_names)
    if privacy_class == "private":
        # Manifests of class dp name this one's digest; with a secret in it nobody can check a guess of the records.
        facts["salt"] = secrets.token_hex(16)
    files = [FileEntry(**r["file"]) for r in results if r["file"]["rows"]]
    manifest = folder.finish(privacy_class=privacy_class, files=files, facts=facts)
    FinishedParts(out, INGEST).clear()
    _tell(source_uri, results)
    return manifest


def _make_unit_reader(
    out: Store,
    units: tuple[SourceUnit, ...],
    image_size: int | None,
    num_channels: int | None,
    num_classes: int,
    skip_corrupt: bool,
    drop_equal_to: Store | None,
) -> Callable[[int], dict[str, Any]]:
    from rapid_dist.ingest.decode import decode_unit
    from rapid_dist.ingest.dedupe import drop_equal, sorted_digests

    digests = None if drop_equal_to is None else sorted_digests(_public_digests(drop_equal_to))

    def read_unit(index: int) -> dict[str, Any]:
        unit = units[index]
        decoded = decode_unit(unit, image_size=image_size, num_channels=num_channels, skip_corrupt=skip_corrupt)
        dropped = 0
        if digests is not None and len(decoded.example_id):
            decoded, dropped = drop_equal(decoded, digests)
        if num_classes:
            _check_labels(unit.uri, decoded.label, num_classes)
        table = ImageTable(example_id=decoded.example_id, image=decoded.image, label=decoded.label)
        entry = write_images(out, f"parts/part-{index:05d}.parquet", table)
        return {
            "file": asdict(entry),
            "shape": list(decoded.image.shape[1:]) if len(table) else None,
            "name": unit.uri if not unit.files else f"{unit.uri}/{unit.files[0]}",
            "num_corrupt": len(decoded.corrupt),
            "num_dropped": dropped,
            "max_label": int(decoded.label.max()) if len(table) else -1,
        }

    return read_unit


def _public_digests(store: Store):
    import numpy as np

    from rapid_dist.ingest.dedupe import pixel_digests

    manifest = open_artifact(store, stage=INGEST, privacy_classes=("public",))
    return np.concatenate([pixel_digests(table.image) for table in iterate_images(store, manifest.files)])


def _check_labels(where: str, label: Any, num_classes: int) -> None:
    if (label < 0).any():
        raise InputError(f"{where} has records without a label; every record needs one, or set data.num_classes to 0")
    if (label >= num_classes).any():
        raise InputError(
            f"{where} has labels of {num_classes} or more but data.num_classes is {num_classes}; "
            "labels are 0 to num_classes - 1"
        )


def _facts(source_uri: str, results: list[dict[str, Any]], class_names: tuple[str, ...] | None) -> dict[str, Any]:
    filled = [r for r in results if r["shape"] is not None]
    if not filled:
        raise InputError(f"{source_uri} has no usable image left after corrupt and duplicate ones were taken out")
    first = filled[0]
    for other in filled[1:]:
        if other["shape"] != first["shape"]:
            raise mixed_shapes_error(first["name"], tuple(first["shape"]), other["name"], tuple(other["shape"]))
    return {
        "image_shape": first["shape"],
        "class_names": list(class_names) if class_names else None,
        "num_labels": max(r["max_label"] for r in filled) + 1,
        "num_corrupt": sum(r["num_corrupt"] for r in results),
        "num_dropped": sum(r["num_dropped"] for r in results),
    }


def _tell(source_uri: str, results: list[dict[str, Any]]) -> None:
    corrupt, dropped = (sum(r[name] for r in results) for name in ("num_corrupt", "num_dropped"))
    if corrupt:
        say(headed(INGEST, f"left out {corrupt} corrupt images of {source_uri}"))
    if dropped:
        say(headed(INGEST, f"left out {dropped} private records whose pixels equal a public one"))
