"""What one task of a knowledge-base stage does: trajectories of some image parts, one shard, one shard's recall.

Each is a function of its index that reads only its own part or shard, writes its files, and returns their entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from rapid_dist.knowledge_base.files import (
    CLUSTERS,
    PROTOTYPES,
    QUERIES,
    ShardFiles,
    ShardRecord,
    named_file,
    open_shard,
    read_pieces,
    read_table,
    write_addressed,
    write_shard,
)
from rapid_dist.knowledge_base.trajectory import trajectory_noise, values_of_latents
from rapid_dist.models.public import PublicModels, encode_pixels, open_public_models
from rapid_dist.specs import RunSpec
from rapid_dist.storage.manifest import FileEntry, Manifest, write_file
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import grouped_table_bytes, read_images, table_bytes
from rapid_dist.telemetry import peak_memory_bytes

BATCH_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """Some trajectories before they are noised: trajectory_id, label (n,); latent, noise (n, *latent_shape)."""

    trajectory_id: np.ndarray
    label: np.ndarray
    latent: torch.Tensor
    noise: torch.Tensor

    def value(self, spec: RunSpec, models: PublicModels) -> np.ndarray:
        """The values of the batch as a base holds them, (n, *latent_shape) float16."""
        shared = {"schedule": spec.schedule, "alphas_cumprod": models.alphas_cumprod}
        return values_of_latents(self.latent, self.noise, **shared).cpu().numpy().astype("float16")


def latent_batches(
    spec: RunSpec, images: Store, parts: Sequence[FileEntry], models: PublicModels, first_id: int
) -> Iterator[LatentBatch]:
    """All trajectories of some image parts, always in the same batches: a network may round by its batch's size."""
    device, draws = spec.runtime.device, spec.knowledge_base.num_trajectories_per_image
    for entry in parts:
        table = read_images(images, entry)
        for first in range(0, len(table), BATCH_ROWS):
            rows = slice(first, first + BATCH_ROWS)
            trajectory_id = first_id + (table.example_id[rows][:, None] * draws + np.arange(draws)).reshape(-1)
            latent = encode_pixels(models.autoencoder, torch.tensor(table.image[rows]), device=device)
            yield LatentBatch(
                trajectory_id=trajectory_id,
                label=np.repeat(table.label[rows], draws),
                latent=latent.repeat_interleave(draws, dim=0).to(device),
                noise=trajectory_noise(spec.pretrain.seed, trajectory_id, models.latent_shape).to(device),
            )


Task = Callable[[int], dict[str, Any]]
NUM_RECALL_QUERIES = 500


@dataclass(frozen=True, kw_only=True)
class SetPlan:
    """How a set of images becomes trajectories: the ids, the shards, and which keys are kept as a sample.

    first_id: added to the ids of this set, so that sets never clash. clusters: entry of the table that assigns keys
    to shards; None for hash, or while it is still to be fitted (is_split False: rows are left together).
    """

    number: int
    first_id: int
    num_shards: int
    sample_every: int
    clusters: FileEntry | None = None
    is_split: bool = True


def make_trajectory_maker(
    spec: RunSpec,
    images: Store,
    parts: Sequence[Sequence[FileEntry]],
    pretrain: Store,
    weights: Manifest,
    out: Store,
    work: Store,
    plan: SetPlan,
) -> Task:
    """fn(index) makes the trajectories of the image parts of that index, split by shard."""
    import numpy as np

    from rapid_dist.knowledge_base.trajectory import keys_of_latents
    from rapid_dist.seeding import draw_integers

    models = open_public_models(spec, pretrain, weights, device=spec.runtime.device)

    def key_of(batch: LatentBatch) -> np.ndarray:
        key = keys_of_latents(
            batch.latent,
            batch.noise,
            denoiser=models.denoiser,
            extract=models.extractor,
            num_conditions=models.num_public_classes,
            schedule=spec.schedule,
            alphas_cumprod=models.alphas_cumprod,
        )
        return key.cpu().numpy()

    def make(index: int) -> dict[str, Any]:
        pieces: dict[str, list[np.ndarray]] = {"trajectory_id": [], "key": [], "value": [], "label": []}
        for batch in latent_batches(spec, images, parts[index], models, plan.first_id):
            made = (batch.trajectory_id, key_of(batch), batch.value(spec, models), batch.label)
            for name, part in zip(pieces, made, strict=True):
                pieces[name].append(part)
        columns = {name: np.concatenate(pieces.pop(name)) for name in list(pieces)}
        ids = columns["trajectory_id"]
        drawn = draw_integers(spec.pretrain.seed, "key-sample", ids, 1, below=plan.sample_every)[:, 0]
        sample = {"key": columns["key"][drawn == 0]}
        sampled = write_file(work, f"sample/part-{index:05d}.parquet", table_bytes(sample), rows=len(sample["key"]))
        return {
            "file": asdict(write_trajectories(spec, out, work, plan, index, columns)),
            "sample": asdict(sampled),
            "rows": len(ids),
            "next_id": int(ids.max()) + 1,
            "peak_bytes": peak_memory_bytes(),
        }

    return make


def write_trajectories(
    spec: RunSpec, out: Store, work: Store, plan: SetPlan, index: int, columns: Mapping[str, Any]
) -> FileEntry:
    """One row group a shard; or one plain table in the work folder while the clusters are still to be fitted."""
    rows = len(columns["trajectory_id"])
    if not plan.is_split:
        return write_file(work, f"unsplit/part-{index:05d}.parquet", table_bytes(columns), rows=rows)
    data = grouped_table_bytes(columns, shard_of(spec, out, plan, columns))
    return write_addressed(out, part_stem(plan.number, index), ".parquet", data, rows=rows)


def part_stem(number: int, index: int) -> str:
    """How the name of a set's trajectory part begins."""
    return f"trajectories/set-{number:03d}-part-{index:05d}"


def shard_of(spec: RunSpec, out: Store, plan: SetPlan, columns: Mapping[str, Any]) -> Any:
    """The shard of each row, (n,) int64: by the hash of its id, or by its key and the base's public clusters."""
    from rapid_dist.knowledge_base.clusters import Clusters, cluster_shards, hash_shards

    if plan.clusters is None:
        return hash_shards(columns["trajectory_id"], plan.num_shards)
    clusters = Clusters(**read_table(out, plan.clusters))
    return cluster_shards(columns["key"], clusters, space=spec.knowledge_base.space)


def make_part_remaker(arguments: Sequence[Any], indexes: Sequence[int]) -> Task:
    """fn(i) makes the trajectory part indexes[i] again; arguments: of make_trajectory_maker."""
    make = make_trajectory_maker(*arguments)
    return lambda i: make(indexes[i])


def make_splitter(spec: RunSpec, out: Store, work: Store, unsplit: Sequence[FileEntry], plan: SetPlan) -> Task:
    """fn(index) splits one part by the clusters that were fitted meanwhile."""

    def split(index: int) -> dict[str, Any]:
        columns = read_table(work, unsplit[index])
        entry = write_trajectories(spec, out, work, plan, index, columns)
        return {"file": asdict(entry), "rows": entry.rows, "peak_bytes": peak_memory_bytes()}

    return split


def make_fitter(
    spec: RunSpec,
    out: Store,
    work: Store,
    samples: Sequence[FileEntry],
    num_rows: int,
    num_clusters: int | None,
    base: Manifest | None,
) -> Task:
    """fn(0) makes, of the sample of keys of a set of num_rows rows, what the base still lacks.

    Always the queries that recall is measured with: of the base's, as many are kept as its share of the rows. For a
    first set also prototypes, and num_clusters clusters where that is given.
    """
    import numpy as np

    from rapid_dist.knowledge_base.clusters import fit_clusters, fit_prototypes
    from rapid_dist.knowledge_base.neighbors import draw_nearby_keys, thinned

    section, seed = spec.knowledge_base, spec.pretrain.seed

    def fit(index: int) -> dict[str, Any]:
        keys = np.concatenate([read_table(work, f)["key"] for f in samples])
        old_rows = 0 if base is None else base.facts["num_trajectories"]
        num_new = -(-NUM_RECALL_QUERIES * num_rows // (num_rows + old_rows))
        queries = draw_nearby_keys(thinned(keys, num_new), seed=seed)
        tables, num_fitted = {}, None
        if base is not None:
            old = read_table(out, named_file(base, QUERIES))["key"]
            queries = np.concatenate([thinned(old, NUM_RECALL_QUERIES - num_new), queries])
        else:
            centroids = fit_prototypes(keys, num_prototypes=section.num_prototypes, seed=seed)
            tables[PROTOTYPES] = {"centroid": centroids}
        if num_clusters is not None:
            clusters = fit_clusters(keys, num_shards=num_clusters, space=section.space, seed=seed)
            tables[CLUSTERS] = {"centroid": clusters.centroid, "shard": clusters.shard}
            num_fitted = clusters.num_shards
        tables[QUERIES] = {"key": queries}
        entries = {
            name: asdict(write_addressed(out, name, ".parquet", table_bytes(t), rows=len(next(iter(t.values())))))
            for name, t in tables.items()
        }
        return {"files": entries, "num_clusters": num_fitted}

    return fit


def make_shard_builder(
    spec: RunSpec,
    out: Store,
    trajectories: Mapping[int, Sequence[FileEntry]],
    prototypes: FileEntry,
    records: Sequence[ShardRecord],
) -> Task:
    """fn(index) makes the shard of records[index] from its row groups; nothing for a shard without rows."""
    from rapid_dist.knowledge_base.clusters import assign_prototypes, fit_shard_centroids
    from rapid_dist.knowledge_base.index import build_shard

    section, seed = spec.knowledge_base, spec.pretrain.seed
    centroids = read_table(out, prototypes)["centroid"]

    def build(index: int) -> dict[str, Any]:
        columns = read_pieces(out, trajectories, records[index])
        if not columns:
            return {"files": [], "rows": 0}
        keys = columns["key"]
        columns["prototype"] = assign_prototypes(keys, centroids)
        shard = build_shard(
            keys,
            columns["trajectory_id"],
            space=section.space,
            M=section.M,
            ef_construction=section.ef_construction,
            seed=seed,
        )
        routing = fit_shard_centroids(keys, space=section.space, seed=seed)
        files = write_shard(out, records[index].number, shard, columns, routing)
        return {"files": [asdict(f) for f in files], "rows": len(keys), "peak_bytes": peak_memory_bytes()}

    return build


def make_recall_measurer(
    spec: RunSpec, out: Store, work: Store, shards: Sequence[ShardFiles], queries: FileEntry, num_neighbors: int
) -> Task:
    """fn(index) asks one shard the recall queries, by its index and exactly. The queries and answers are public."""
    from rapid_dist.knowledge_base.versions import shard_answers
    from rapid_dist.metrics.recorder import current_recorder
    from rapid_dist.metrics.steps import MeasuredSearch

    space, ef_search = spec.knowledge_base.space, spec.knowledge_base.ef_search

    def measure(index: int) -> dict[str, Any]:
        keys = read_table(out, queries)["key"]
        shard = open_shard(out, shards[index], space=space, ef_search=ef_search)
        measured = MeasuredSearch(shard, current_recorder(), "recall")
        found, truth = shard_answers(measured, keys, num_neighbors, space)
        answers = {}
        for name, part in (("found", found), ("true", truth)):
            answers |= {f"{name}_id": part.trajectory_id, f"{name}_distance": part.distance}
        entry = write_file(work, f"recall/{shards[index].name}.parquet", table_bytes(answers))
        return {"file": asdict(entry), "rows": len(shard.keys), "peak_bytes": peak_memory_bytes()}

    return measure
