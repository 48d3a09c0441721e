"""The knowledge-base stage and what changes a base later: build, append, compact; each commits one version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rapid_dist.errors import ArtifactError, InputError
from rapid_dist.knowledge_base.clusters import plan_compaction
from rapid_dist.knowledge_base.files import (
    BUILD,
    CLUSTERS,
    PROTOTYPES,
    QUERIES,
    ShardRecord,
    named_file,
    shard_files,
    shard_name_of,
    shard_records,
    trajectory_files,
)
from rapid_dist.knowledge_base.tasks import SetPlan, make_part_remaker
from rapid_dist.knowledge_base.versions import (
    commit_version,
    damaged_files,
    note_damage,
    open_newest,
    publish_newest,
    version_of,
)
from rapid_dist.models.public import PRETRAIN
from rapid_dist.specs import RunSpec
from rapid_dist.stages.kb_work import BaseWork, group_parts
from rapid_dist.storage.digest import digest_of
from rapid_dist.storage.manifest import FileEntry, Manifest, open_artifact
from rapid_dist.storage.stage import StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST
from rapid_dist.telemetry import headed, say


def repair_base(
    spec: RunSpec, images: Store, pretrain: Store, out: Store, base: Manifest, damaged: Sequence[str]
) -> Manifest:
    """Makes the damaged files anew, from the trajectories or, where those are damaged, from the images.

    The same bytes come again and the version stays; where they differ (other hardware), a new version names them.
    Raises ArtifactError for a file that cannot be made from these images, naming it.
    """
    lost = set(damaged)
    parts = sorted(path for path in lost if path.startswith("trajectories/"))
    names = {shard_name_of(path) for path in lost} - {None}
    for path in sorted(lost - set(parts)):
        if shard_name_of(path) is None:
            raise ArtifactError(f"{out.uri}/{path} is damaged and all shards depend on it; remove the folder and build")
    say(headed("repair", f"making anew: {', '.join([*parts, *sorted(names)])}"))
    work = BaseWork(spec, out, operation="repair", identity={"base": base.digest, "damaged": sorted(lost)})
    made = _remake_parts(work, images, pretrain, base, parts)
    files = {f.path: f for f in base.files if f.path not in parts} | {f.path: f for f in made}
    records = [r for r in shard_records(base) if r.name in names]
    if records:
        draft = replace(base, files=list(files.values()))
        _, built = work.build_shards(trajectory_files(draft), named_file(base, PROTOTYPES), records)
        files = {path: f for path, f in files.items() if shard_name_of(path) not in names}
        files |= {f.path: f for f in built}
    manifest = base
    if set(files) != {f.path for f in base.files}:
        facts = {**base.facts, "version": version_of(base) + 1}
        draft = work.describe(base, records=shard_records(base), files=list(files.values()), facts=facts)
        manifest = commit_version(out, draft)
    note_damage(out, ())
    work.finish()
    return manifest


def _remake_parts(
    work: BaseWork, images: Store, pretrain: Store, base: Manifest, paths: Sequence[str]
) -> list[FileEntry]:
    """The trajectory files of the paths, made again from the images they came from."""
    if not paths:
        return []
    source = open_artifact(images, stage=INGEST, privacy_classes=("public",))
    weights = open_artifact(pretrain, stage=PRETRAIN, privacy_classes=("public",))
    numbers = {path: tuple(int(n) for n in path.split("/")[1].split("-")[1:4:2]) for path in paths}
    for path, (number, _) in numbers.items():
        label = base.facts["sets"][number]["input"]
        if base.inputs[label] != source.digest:
            raise ArtifactError(
                f"{work.out.uri}/{path} is damaged and was made of other images than {images.uri}; give those images "
                "to `rapid-dist kb append`, which then makes only this anew"
            )
    (number,) = {number for number, _ in numbers.values()}
    fact = base.facts["sets"][number]
    by_cluster = work.spec.knowledge_base.assignment == "cluster"
    plan = SetPlan(
        number=number,
        first_id=fact["first_id"],
        num_shards=fact["num_shards"],
        sample_every=1,
        clusters=named_file(base, CLUSTERS) if by_cluster else None,
    )
    groups = group_parts(source.files, min_rows=fact["min_part_rows"])
    indexes = sorted(index for _, index in numbers.values())
    arguments = (work.spec, images, groups, pretrain, weights, work.out, work.work, plan)
    results = work.map("parts", make_part_remaker, (arguments, indexes), len(indexes), keeps_state=True)
    return [FileEntry(**r["file"]) for r in results]


APPENDED = "appended-"


def run_build_knowledge_base(spec: RunSpec, images: Store, pretrain: Store, out: Store) -> Manifest:
    """Builds the sharded knowledge base of public trajectories; what a finished base lost is made anew.

    Guarantee: refuses any input whose privacy class is not public.
    """
    return build_once(spec, images, pretrain, out, partial(_first_version, images=images, pretrain=pretrain))


def build_once(
    spec: RunSpec,
    images: Store,
    pretrain: Store,
    out: Store,
    make_version: Callable[..., Manifest],
    *,
    operation: str = "build",
    identity: Mapping[str, Any] | None = None,
) -> Manifest:
    """The base of these inputs as out holds it, or its first version as make_version(work, source, weights, folder).

    identity: what the operation works from beside spec and inputs.
    Guarantee: refuses any input whose privacy class is not public.
    """
    source, weights, inputs = open_inputs(images, pretrain)
    newest = publish_newest(out)
    # A base that grew since is still the base of these inputs.
    grown = {} if newest is None else {k: v for k, v in newest.inputs.items() if k.startswith(APPENDED)}
    folder = StageFolder(out, stage=BUILD, spec=base_spec(spec), inputs={**inputs, **grown})
    if folder.finished is not None:
        damaged = damaged_files(out, folder.finished)
        return repair_base(spec, images, pretrain, out, folder.finished, damaged) if damaged else folder.finished
    identity = {"spec": folder.spec, "inputs": inputs, **(identity or {})}
    work = BaseWork(spec, out, operation=operation, identity=identity)
    try:
        draft = make_version(work, source=source, weights=weights, folder=folder)
        manifest = commit_version(out, replace(draft, seconds=folder.seconds))
    except (ArtifactError, InputError):
        # Another builder of the same base may have finished it, and put away what this one was reading.
        done = publish_newest(out)
        if done is None or digest_of([done.spec, done.inputs]) != digest_of([folder.spec, inputs]):
            raise
        manifest = done
    folder.forget_begun()
    work.finish()
    return manifest


def open_inputs(images: Store, pretrain: Store) -> tuple[Manifest, Manifest, dict[str, str]]:
    """The manifests of public images and models, and the inputs of a base made of them."""
    source = open_artifact(images, stage=INGEST, privacy_classes=("public",))
    weights = open_artifact(pretrain, stage=PRETRAIN, privacy_classes=("public",))
    return source, weights, {"public": source.digest, "pretrain": weights.digest}


def base_spec(spec: RunSpec) -> dict[str, Any]:
    """What a base depends on. How it is asked is left out, and the label map, which only restricts queries."""
    section = dict(spec.sections("knowledge_base")["knowledge_base"])
    for name in ("label_map", "serving", "num_probes"):
        del section[name]
    return {"knowledge_base": section, **spec.sections("schedule")}


def _first_version(
    work: BaseWork, *, images: Store, source: Manifest, pretrain: Store, weights: Manifest, folder: StageFolder
) -> Manifest:
    spec = work.spec
    made = work.make_set(
        images,
        source,
        pretrain,
        weights,
        number=0,
        first_id=0,
        num_shards=spec.knowledge_base.num_shards,
    )
    cluster_of = range(made.num_shards) if spec.knowledge_base.assignment == "cluster" else [0] * made.num_shards
    records = [ShardRecord(number=i, pieces=[[0, i]], cluster=cluster_of[i]) for i in range(made.num_shards)]
    trajectories = {0: made.files}
    built, files = work.build_shards(trajectories, made.fitted[PROTOTYPES], records)
    facts = {
        "version": 1,
        "num_prototypes": made.fitted[PROTOTYPES].rows,
        "feature_dim": spec.extractor.feature_dim,
        "ef_search": spec.knowledge_base.ef_search,
        "num_public_classes": weights.facts["num_public_classes"],
        "sets": [made.fact("public")],
        "next_number": len(records),
    }
    return work.describe(
        Manifest(stage=BUILD, privacy_class="public", spec=folder.spec, inputs=folder.inputs, files=[]),
        records=built,
        files=[*made.files, *made.fitted.values(), *files],
        facts=facts,
    )


def run_append(spec: RunSpec, images: Store, pretrain: Store, out: Store) -> Manifest:
    """Adds the trajectories of a further ingested public dataset as new shards; nothing existing is rebuilt.

    Ids of the new set start above all ids of the base, so sets never clash. The same images again change nothing,
    but make anew what the base lost of them.

    Guarantee: refuses any input whose privacy class is not public.
    """
    base, weights, source = _open_to_change(spec, pretrain, out, images)
    if source.digest in base.inputs.values():
        damaged = damaged_files(out, base)
        return repair_base(spec, images, pretrain, out, base, damaged) if damaged else base
    records, sets = shard_records(base), list(base.facts["sets"])
    first_set = sets[0]
    number, label = len(sets), f"{APPENDED}{len(sets):03d}"
    work = BaseWork(spec, out, operation="append", identity={"base": base.digest, "images": source.digest})
    by_cluster = spec.knowledge_base.assignment == "cluster"
    made = work.make_set(
        images,
        source,
        pretrain,
        weights,
        number=number,
        first_id=max(s["next_id"] for s in sets),
        num_shards=first_set["num_shards"] if by_cluster else _shards_for(source, first_set, spec),
        base=base,
    )
    first = base.facts["next_number"]
    new = [
        ShardRecord(number=first + i, pieces=[[number, i]], cluster=i if by_cluster else 0)
        for i in range(made.num_shards)
    ]
    trajectories = {**trajectory_files(base), number: made.files}
    built, files = work.build_shards(trajectories, named_file(base, PROTOTYPES), new)
    kept = [f for f in base.files if f != named_file(base, QUERIES)]
    draft = work.describe(
        replace(base, inputs={**base.inputs, label: source.digest}),
        records=[*records, *built],
        files=[*kept, *made.files, made.fitted[QUERIES], *files],
        facts={
            **base.facts,
            "version": version_of(base) + 1,
            "sets": [*sets, made.fact(label)],
            "next_number": first + len(new),
        },
    )
    return _commit(work, draft)


def run_compact(spec: RunSpec, pretrain: Store, out: Store, *, max_rows: int | None = None) -> Manifest:
    """Merges small shards into shards of at most max_rows rows; returns the base unchanged when nothing fits.

    max_rows: None is twice the largest shard's. Rows, and so exact search, stay the same.
    """
    base, _, _ = _open_to_change(spec, pretrain, out, None)
    records = shard_records(base)
    rows = {files.name: files.rows.rows for files in shard_files(base)}
    limit = 2 * max(rows.values()) if max_rows is None else max_rows
    merges = plan_compaction([(r.cluster, rows[r.name]) for r in records], max_rows=limit)
    if not merges:
        return base
    merged = {position for group in merges for position in group}
    first = base.facts["next_number"]
    new = [
        ShardRecord(
            number=first + i,
            pieces=[piece for position in group for piece in records[position].pieces],
            cluster=records[group[0]].cluster,
        )
        for i, group in enumerate(merges)
    ]
    work = BaseWork(spec, out, operation="compact", identity={"base": base.digest, "merges": merges})
    built, files = work.build_shards(trajectory_files(base), named_file(base, PROTOTYPES), new)
    gone = {records[position].name for position in merged}
    draft = work.describe(
        base,
        records=[r for r in records if r.name not in gone] + built,
        files=[f for f in base.files if shard_name_of(f.path) not in gone] + files,
        facts={**base.facts, "version": version_of(base) + 1, "next_number": first + len(new)},
    )
    return _commit(work, draft)


def _commit(work: BaseWork, draft: Manifest) -> Manifest:
    try:
        return commit_version(work.out, draft)
    finally:
        work.finish()


def _open_to_change(
    spec: RunSpec, pretrain: Store, out: Store, images: Store | None
) -> tuple[Manifest, Manifest, Manifest | None]:
    """The newest version, the public models and the new images. Raises ArtifactError for a base of another spec."""
    source = None if images is None else open_artifact(images, stage=INGEST, privacy_classes=("public",))
    weights = open_artifact(pretrain, stage=PRETRAIN, privacy_classes=("public",))
    base = open_newest(out)
    StageFolder(out, stage=BUILD, spec=base_spec(spec), inputs=base.inputs)
    if base.inputs["pretrain"] != weights.digest:
        raise ArtifactError(
            f"{out.uri} was built with other public models than those in {pretrain.uri}; "
            "use the run's own folder, or build a new base"
        )
    if source is not None and source.facts["image_shape"] != weights.facts["image_shape"]:
        raise InputError(
            f"images to append have shape {source.facts['image_shape']}, the base's {weights.facts['image_shape']}; "
            "ingest them with the same image size and channels"
        )
    return base, weights, source


def _shards_for(source: Manifest, first_set: Mapping[str, Any], spec: RunSpec) -> int:
    """Shards for a new set: about as many rows in each as a shard of the build has."""
    rows = sum(f.rows for f in source.files) * spec.knowledge_base.num_trajectories_per_image
    per_shard = max(1, first_set["rows"] // first_set["num_shards"])
    return -(-rows // per_shard)
