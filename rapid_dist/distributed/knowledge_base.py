"""The knowledge-base stage: trajectories of public images in parallel, then one task an HNSW shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rapid_dist.artifacts.images import INGEST, read_images
from rapid_dist.artifacts.knowledge_base import BUILD, PROTOTYPES, open_knowledge_base, write_shard
from rapid_dist.artifacts.manifest import FileEntry, Manifest, open_artifact, read_file, write_file
from rapid_dist.artifacts.models import PRETRAIN, encode_pixels, open_public_models
from rapid_dist.artifacts.parts import FinishedParts
from rapid_dist.artifacts.stage import StageFolder
from rapid_dist.artifacts.storage import Store
from rapid_dist.artifacts.tables import table_arrays, table_bytes
from rapid_dist.distributed.mapping import map_parts
from rapid_dist.distributed.session import available_cpus
from rapid_dist.metrics.recorder import current_recorder
from rapid_dist.metrics.search import MeasuredSearch
from rapid_dist.specs import RunSpec

MAX_PROTOTYPE_KEYS = 50_000
NUM_RECALL_QUERIES = 500


def run_build_knowledge_base(spec: RunSpec, images: Store, pretrain: Store, out: Store) -> Manifest:
    """Builds the sharded knowledge base of public trajectories.

    Guarantee: refuses any input whose privacy class is not public.
    """
    source = open_artifact(images, stage=INGEST, privacy_classes=("public",))
    weights = open_artifact(pretrain, stage=PRETRAIN, privacy_classes=("public",))
    # The label map only restricts queries; the base is the same without it.
    section = {k: v for k, v in spec.sections("knowledge_base")["knowledge_base"].items() if k != "label_map"}
    folder = StageFolder(
        out,
        stage=BUILD,
        spec={"knowledge_base": section, **spec.sections("schedule")},
        inputs={"public": source.digest, "pretrain": weights.digest},
    )
    if folder.finished is not None:
        return folder.finished
    parts = [f for f in source.files if f.rows]
    trajectories = map_parts(
        _make_trajectory_maker,
        (spec, images, tuple(parts), pretrain, weights, out),
        len(parts),
        store=out,
        name="trajectories",
        num_actors=available_cpus(),
    )
    files = tuple(FileEntry(**r["file"]) for r in trajectories)
    (prototypes,) = map_parts(
        _make_prototype_fitter, (spec, out, files), 1, store=out, name="prototypes", num_actors=1
    )
    num_shards = min(spec.knowledge_base.num_shards, sum(f.rows for f in files))
    shards = map_parts(
        _make_shard_builder,
        (spec, out, files, FileEntry(**prototypes["file"]), num_shards),
        num_shards,
        store=out,
        name="shards",
        num_actors=available_cpus(),
        keeps_state=False,
    )
    entries = [*files, FileEntry(**prototypes["file"])]
    entries += [FileEntry(**f) for shard in shards for f in shard["files"]]
    facts = {
        "num_shards": num_shards,
        "num_trajectories": sum(f.rows for f in files),
        "num_prototypes": prototypes["num_prototypes"],
        "feature_dim": spec.extractor.feature_dim,
        "ef_search": spec.knowledge_base.ef_search,
        "num_public_classes": weights.facts["num_public_classes"],
    }
    facts |= _measure_recall(spec, out, folder, entries, facts)
    manifest = folder.finish(privacy_class="public", files=entries, facts=facts)
    for name in ("trajectories", "prototypes", "shards"):
        FinishedParts(out, name).clear()
    return manifest


def _make_trajectory_maker(
    spec: RunSpec, images: Store, parts: tuple[FileEntry, ...], pretrain: Store, weights: Manifest, out: Store
) -> Callable[[int], dict[str, Any]]:
    import numpy as np
    import torch

    from rapid_dist.retrieval.trajectory import keys_of_latents, trajectory_noise, values_of_latents

    device = spec.runtime.device
    models = open_public_models(spec, pretrain, weights, device=device)
    draws = spec.knowledge_base.num_trajectories_per_image

    def make_trajectories(index: int) -> dict[str, Any]:
        table = read_images(images, parts[index])
        latent = encode_pixels(models.autoencoder, torch.from_numpy(table.image), device=device)
        trajectory_id = (table.example_id[:, None] * draws + np.arange(draws)).reshape(-1)
        latent = latent.repeat_interleave(draws, dim=0).to(device)
        noise = trajectory_noise(spec.pretrain.seed, trajectory_id, models.latent_shape).to(device)
        key = keys_of_latents(
            latent,
            noise,
            denoiser=models.denoiser,
            extract=models.extractor,
            schedule=spec.schedule,
            alphas_cumprod=models.alphas_cumprod,
            num_conditions=models.num_public_classes,
        )
        value = values_of_latents(latent, noise, schedule=spec.schedule, alphas_cumprod=models.alphas_cumprod)
        columns = {
            "trajectory_id": trajectory_id,
            "key": key.cpu().numpy(),
            "value": value.cpu().numpy().astype(np.float16),
            "label": np.repeat(table.label, draws),
        }
        entry = write_file(
            out, f"trajectories/part-{index:05d}.parquet", table_bytes(columns), rows=len(trajectory_id)
        )
        return {"file": asdict(entry)}

    return make_trajectories


def _make_prototype_fitter(spec: RunSpec, out: Store, files: tuple[FileEntry, ...]) -> Callable[[int], dict[str, Any]]:
    import numpy as np

    from rapid_dist.retrieval.prototypes import fit_prototypes

    def fit(index: int) -> dict[str, Any]:
        total = sum(f.rows for f in files)
        every = -(-total // MAX_PROTOTYPE_KEYS)
        keys = [table_arrays(read_file(out, f), where=f.path)["key"][::every] for f in files]
        centroids = fit_prototypes(
            np.concatenate(keys), num_prototypes=spec.knowledge_base.num_prototypes, seed=spec.pretrain.seed
        )
        entry = write_file(out, PROTOTYPES, table_bytes({"centroid": centroids}), rows=len(centroids))
        return {"file": asdict(entry), "num_prototypes": len(centroids)}

    return fit


def _make_shard_builder(
    spec: RunSpec, out: Store, files: tuple[FileEntry, ...], prototypes: FileEntry, num_shards: int
) -> Callable[[int], dict[str, Any]]:
    import numpy as np

    from rapid_dist.retrieval.prototypes import assign_prototypes
    from rapid_dist.retrieval.shard import build_shard

    section = spec.knowledge_base
    centroids = table_arrays(read_file(out, prototypes), where=prototypes.path)["centroid"]

    def build(index: int) -> dict[str, Any]:
        pieces: dict[str, list[np.ndarray]] = {}
        for file in files:
            columns = table_arrays(read_file(out, file), where=file.path)
            mine = np.flatnonzero(columns["trajectory_id"] % num_shards == index)
            for name, values in columns.items():
                pieces.setdefault(name, []).append(values[mine])
        columns = {name: np.concatenate(values) for name, values in pieces.items()}
        columns["prototype"] = assign_prototypes(columns["key"], centroids)
        shard = build_shard(
            columns["key"],
            columns["trajectory_id"],
            space=section.space,
            M=section.M,
            ef_construction=section.ef_construction,
            seed=spec.pretrain.seed,
        )
        return {"files": [asdict(f) for f in write_shard(out, index, shard, columns)]}

    return build


def _measure_recall(
    spec: RunSpec, out: Store, folder: StageFolder, entries: list[FileEntry], facts: dict[str, Any]
) -> dict[str, float]:
    """Recall of the index against exact search over the same shards, on slightly moved keys."""
    import dataclasses

    from rapid_dist.retrieval.merge import draw_nearby_keys, recall_at

    draft = Manifest(
        stage=BUILD, privacy_class="public", spec=folder.spec, inputs=folder.inputs, files=entries, facts=facts
    )
    exact, hnsw = (
        open_knowledge_base(dataclasses.replace(spec.knowledge_base, method=m), out, draft) for m in ("exact", "hnsw")
    )
    first = next(f for f in entries if f.path.startswith("shards/") and f.path.endswith(".parquet"))
    keys = table_arrays(read_file(out, first), where=first.path)["key"][:NUM_RECALL_QUERIES]
    queries = draw_nearby_keys(keys, seed=spec.pretrain.seed)
    count = min(10, facts["num_trajectories"])
    truth = exact.query(queries, num_neighbors=count)
    found = MeasuredSearch(hnsw, current_recorder(), "recall").query(queries, num_neighbors=count)
    return {"recall_at_1": recall_at(found, truth, 1), f"recall_at_{count}": recall_at(found, truth, count)}
