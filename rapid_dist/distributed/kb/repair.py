"""Making anew what a finished base lost, and only that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rapid_dist.artifacts.images import INGEST
from rapid_dist.artifacts.kb_damage import note_damage
from rapid_dist.artifacts.kb_versions import commit_version, version_of
from rapid_dist.artifacts.knowledge_base import (
    CLUSTERS,
    PROTOTYPES,
    named_file,
    shard_name_of,
    shard_records,
    trajectory_files,
)
from rapid_dist.artifacts.manifest import FileEntry, Manifest, open_artifact
from rapid_dist.artifacts.models import PRETRAIN
from rapid_dist.artifacts.storage import Store
from rapid_dist.distributed.kb.tasks import SetPlan, make_part_remaker
from rapid_dist.distributed.kb.work import BaseWork, group_parts
from rapid_dist.errors import ArtifactError
from rapid_dist.specs import RunSpec
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
