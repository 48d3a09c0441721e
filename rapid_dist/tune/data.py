"""The data sets that trials work on: public images divided in three, or a secret subset of the private records."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rapid_dist import errors
from rapid_dist.privacy.ledger import PaidSteps
from rapid_dist.runtime.parts import map_parts, run_task
from rapid_dist.runtime.session import available_cpus
from rapid_dist.specs.study import TuneSpec
from rapid_dist.storage.manifest import FileEntry, Manifest, open_artifact, read_manifest
from rapid_dist.storage.stage import FinishedParts, StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, iterate_images, read_images, write_images
from rapid_dist.tune.division import Division, divide, divide_table, draw_subset

KNOWLEDGE, PRETEND_PRIVATE, HELD_OUT = PARTS = ("knowledge", "private", "test")
_CLASSES = {KNOWLEDGE: "public", PRETEND_PRIVATE: "private", HELD_OUT: "public"}


@dataclass(frozen=True, kw_only=True)
class ProxyData:
    """The three parts of the public images. num_classes: of the pretend-private ones, 0 without labels."""

    knowledge: Store
    private: Store
    held_out: Store
    num_private: int
    num_classes: int


def divide_public(public: Store, out: Store, tune: TuneSpec) -> ProxyData:
    """Divides an ingested public data set into knowledge, pretend-private and held-out images; skips when done.

    Guarantee: reads public images only. The pretend-private part has class private, so that nothing treats it better
    than real records.
    """
    source = open_artifact(public, stage=INGEST, privacy_classes=("public",))
    division = divide(source.facts["num_labels"], tune.proxy)
    stores = {name: out.child(name) for name in PARTS}
    spec = {"division": asdict(division), "seed": tune.seed}
    folders = {
        name: StageFolder(store, stage=INGEST, spec={**spec, "part": name}, inputs={"public": source.digest})
        for name, store in stores.items()
    }
    if any(folder.finished is None for folder in folders.values()):
        parts = [f for f in source.files if f.path.endswith(".parquet") and f.rows]
        results = map_parts(
            _make_divider,
            (public, parts, stores, division, tune.seed),
            len(parts),
            store=out,
            name="divide",
            num_actors=available_cpus(),
            keeps_state=False,
        )
        for name, folder in folders.items():
            if folder.finished is None:
                _finish(folder, name, [FileEntry(**r[name]) for r in results], source, division)
        FinishedParts(out, "divide").clear()
    rows = {name: _rows(read_manifest(store)) for name, store in stores.items()}
    empty = sorted(name for name, count in rows.items() if not count)
    if empty:
        raise errors.InputError(
            f"no public image is left for {', '.join(empty)} when {public.uri} is divided; choose other "
            "tune.proxy.private_classes, or use more public images"
        )
    return ProxyData(
        knowledge=stores[KNOWLEDGE],
        private=stores[PRETEND_PRIVATE],
        held_out=stores[HELD_OUT],
        num_private=rows[PRETEND_PRIVATE],
        num_classes=division.num_classes,
    )


def _finish(folder: StageFolder, name: str, files: list[FileEntry], source: Manifest, division: Division) -> None:
    num_labels = source.facts["num_labels"] if name == KNOWLEDGE else division.num_classes
    facts = {**source.facts, "class_names": None, "num_labels": num_labels, "num_corrupt": 0, "num_dropped": 0}
    if _CLASSES[name] == "private":
        facts["salt"] = secrets.token_hex(16)
    folder.finish(privacy_class=_CLASSES[name], files=[f for f in files if f.rows], facts=facts)


def _make_divider(
    public: Store, parts: list[FileEntry], stores: Mapping[str, Store], division: Division, seed: int
) -> Callable[[int], dict[str, Any]]:
    def divide_part(index: int) -> dict[str, Any]:
        tables = divide_table(read_images(public, parts[index]), division, seed)
        path = f"parts/part-{index:05d}.parquet"
        return {
            name: asdict(write_images(store, path, tables[name], stage=INGEST, privacy_class=_CLASSES[name]))
            for name, store in stores.items()
        }

    return divide_part


def draw_private_subset(private: Store, out: Store, paid: PaidSteps) -> None:
    """Each private record is in the subset on its own with the paid probability, by a key that is then forgotten.

    A draw that was cut off is thrown away whole and drawn anew, which
    is the same as one draw since nothing has looked at it.
    Guarantee: whether a record is in depends on the key and its id alone; nobody can tell afterwards who is in but
    by reading the subset.
    """
    source = open_artifact(private, stage=INGEST, privacy_classes=("private",))
    spec = {"subset_rate": paid.charge.subset_rate}
    if read_manifest(out) is None:
        out.delete_folder("parts")
    folder = StageFolder(out, stage=INGEST, spec=spec, inputs={"private": source.digest})
    if folder.finished is not None:
        return
    files = run_task(_draw_subset, private, source, out, paid, is_private=True, num_cpus=0.5, max_retries=0)
    facts = {**source.facts, "salt": secrets.token_hex(16), "num_corrupt": 0, "num_dropped": 0}
    folder.finish(privacy_class="private", files=[FileEntry(**f) for f in files], facts=facts)


def _draw_subset(private: Store, source: Manifest, out: Store, paid: PaidSteps) -> list[dict[str, Any]]:
    files = []
    for index, table in enumerate(draw_subset(iterate_images(private, source.files), paid)):
        path = f"parts/part-{index:05d}.parquet"
        files.append(asdict(write_images(out, path, table, stage=INGEST, privacy_class="private")))
    return files


def _rows(manifest: Manifest | None) -> int:
    return 0 if manifest is None else sum(f.rows for f in manifest.files)
