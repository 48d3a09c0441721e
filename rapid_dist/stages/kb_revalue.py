"""A knowledge base for another split step, from a finished one: only values are computed, the rest is taken over.

Keys are made at query_step, and prototypes, indexes, routing and recall of keys alone; of all a base holds, only the
values, the latents where the private model takes over, depend on schedule.split_step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from rapid_dist.errors import ArtifactError
from rapid_dist.knowledge_base.files import (
    BUILD,
    ShardFiles,
    ShardRecord,
    read_pieces,
    read_table,
    shard_files,
    shard_name_of,
    shard_records,
    trajectory_files,
    write_addressed,
)
from rapid_dist.knowledge_base.tasks import Task, latent_batches, part_stem
from rapid_dist.knowledge_base.trajectory import rows_of_ids
from rapid_dist.knowledge_base.versions import damaged_files, publish_newest, version_of
from rapid_dist.models.public import open_public_models
from rapid_dist.specs import RunSpec
from rapid_dist.stages.kb_work import BaseWork, group_parts
from rapid_dist.stages.knowledge_base import APPENDED, base_spec, build_once, open_inputs
from rapid_dist.storage.digest import differing_keys, digest_of
from rapid_dist.storage.manifest import FileEntry, Manifest, copy_file, open_artifact, read_file
from rapid_dist.storage.stage import StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import grouped_table_arrays, grouped_table_bytes, table_bytes
from rapid_dist.telemetry import format_seconds, headed, peak_memory_bytes, say

REMEDY = "build that base again, which makes only what is damaged anew, then run the same line again"


def run_revalue_knowledge_base(spec: RunSpec, images: Store, pretrain: Store, like: Store, out: Store) -> Manifest:
    """Makes in out the base that run_build_knowledge_base would make, from one that differs in split_step only.

    No network but the autoencoder is asked and no index is built. A finished out is treated as a build treats it.
    Raises ArtifactError when like is no such base, was changed since it was built, or is damaged, and says which.

    Guarantee: refuses any input whose privacy class is not public.
    """
    make_version: Callable[..., Manifest] = _nothing_to_make
    identity: Mapping[str, Any] = {}
    if publish_newest(out) is None:
        base = _open_like(spec, images, pretrain, like)
        make_version = partial(_same_but_values, images=images, pretrain=pretrain, like=like, base=base)
        identity = {"like": base.digest}
    return build_once(spec, images, pretrain, out, make_version, operation="revalue", identity=identity)


def _nothing_to_make(work: BaseWork, **_: Any) -> Manifest:
    raise ArtifactError(f"{work.out.uri} was finished and then removed meanwhile; run the same line again")


def _open_like(spec: RunSpec, images: Store, pretrain: Store, like: Store) -> Manifest:
    """The base to take over from. Raises ArtifactError naming what makes it another than the split step."""
    _, _, inputs = open_inputs(images, pretrain)
    base = open_artifact(like, stage=BUILD, privacy_classes=("public",))
    records = shard_records(base)
    ways = {
        "was appended to": any(name.startswith(APPENDED) for name in base.inputs),
        "was compacted": any(len(record.pieces) > 1 for record in records),
        "was repaired with other bits than it was built with": version_of(base) > 1,
    }
    for way, is_so in ways.items():
        if is_so:
            raise ArtifactError(f"{like.uri} {way}; expected a base as it was built, so build this one instead")
    theirs, mine = json.loads(json.dumps(base.spec)), json.loads(json.dumps(base_spec(spec)))
    theirs["schedule"]["split_step"] = mine["schedule"]["split_step"]
    if digest_of(theirs) != digest_of(mine):
        changes = "; ".join(differing_keys(theirs, mine)[:3])
        raise ArtifactError(f"{like.uri} differs in more than schedule.split_step ({changes}); build this base instead")
    if dict(base.inputs) != inputs:
        changed = ", ".join(sorted(k for k in {*inputs, *base.inputs} if inputs.get(k) != base.inputs.get(k)))
        raise ArtifactError(f"{like.uri} was made from other inputs ({changed} changed); build this base instead")
    damaged = damaged_files(like, base)
    if damaged:
        raise ArtifactError(f"{like.uri} is damaged ({', '.join(damaged[:3])}); {REMEDY}")
    return base


def _same_but_values(
    work: BaseWork,
    *,
    images: Store,
    source: Manifest,
    pretrain: Store,
    weights: Manifest,
    folder: StageFolder,
    like: Store,
    base: Manifest,
) -> Manifest:
    """The version that a build would commit: facts and recall are those of the base, of which none knows a value."""
    spec, out, parts = work.spec, work.out, trajectory_files(base)[0]
    groups = group_parts(source.files, min_rows=base.facts["sets"][0]["min_part_rows"])
    if len(groups) != len(parts):
        raise ArtifactError(f"{like.uri} has {len(parts)} trajectory parts; expected {len(groups)} of {images.uri}")
    arguments = (spec, images, groups, pretrain, weights, like, parts, out)
    # Plain tasks: to start a pool of actors takes longer than to open the models once a part.
    made = [FileEntry(**r["file"]) for r in work.map("values", make_part_revaluer, arguments, len(parts))]
    shards = shard_files(base)
    results = work.map("shards", make_shard_revaluer, (like, shards, shard_records(base), out, {0: made}), len(shards))
    kept = [f for f in base.files if f not in parts and shard_name_of(f.path) is None]
    for entry in kept:
        copy_file(like, entry, out, remedy=REMEDY)
    files = [*made, *kept, *(FileEntry(**f) for r in results for f in r["files"])]
    took = format_seconds(folder.seconds)
    say(headed("revalue", f"{base.facts['num_trajectories']} values in {took}; the rest is that of {like.uri}"))
    return replace(base, spec=folder.spec, inputs=folder.inputs, files=sorted(files, key=lambda f: f.path))


def make_part_revaluer(
    spec: RunSpec,
    images: Store,
    groups: Sequence[Sequence[FileEntry]],
    pretrain: Store,
    weights: Manifest,
    like: Store,
    parts: Sequence[FileEntry],
    out: Store,
) -> Task:
    """fn(index) makes a trajectory part of a first set with new values: its rows, their order and groups stay."""
    models = open_public_models(spec, pretrain, weights, device=spec.runtime.device)

    def revalue(index: int) -> dict[str, Any]:
        batches = latent_batches(spec, images, groups[index], models, 0)
        ids, values = zip(*((b.trajectory_id, b.value(spec, models)) for b in batches), strict=True)
        where = f"{like.uri}/{parts[index].path}"
        columns, group = grouped_table_arrays(read_file(like, parts[index], remedy=REMEDY), where=where)
        rows = rows_of_ids(np.concatenate(ids), columns["trajectory_id"])
        columns["value"] = np.concatenate(values)[rows]
        data = grouped_table_bytes(columns, group)
        entry = write_addressed(out, part_stem(0, index), ".parquet", data, rows=len(rows))
        return {"file": asdict(entry), "rows": len(rows), "peak_bytes": peak_memory_bytes()}

    return revalue


def make_shard_revaluer(
    like: Store,
    shards: Sequence[ShardFiles],
    records: Sequence[ShardRecord],
    out: Store,
    trajectories: Mapping[int, Sequence[FileEntry]],
) -> Task:
    """fn(index) makes one shard: its rows with the values of the trajectories, its index and routing taken over."""

    def revalue(index: int) -> dict[str, Any]:
        shard, record = shards[index], records[index]
        columns = read_table(like, shard.rows)
        fresh = read_pieces(out, trajectories, record, columns=("trajectory_id", "value"))
        columns["value"] = fresh["value"][rows_of_ids(fresh["trajectory_id"], columns["trajectory_id"])]
        rows = len(columns["trajectory_id"])
        made = write_addressed(out, f"shards/{record.name}", ".parquet", table_bytes(columns), rows=rows)
        taken = [shard.index, shard.centroids]
        files = [made, *(copy_file(like, entry, out, remedy=REMEDY) for entry in taken)]
        return {"files": [asdict(f) for f in files], "rows": rows, "peak_bytes": peak_memory_bytes()}

    return revalue
