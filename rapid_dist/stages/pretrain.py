"""The pretrain stage: all public models in one Ray Train fit, since a fit costs seconds before it does anything."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rapid_dist.errors import InputError
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.metrics.steps import group_started
from rapid_dist.models.public import PRETRAIN, build_public_models, save_weights
from rapid_dist.runtime.mailbox import relayed_recorder
from rapid_dist.runtime.workers import run_workers
from rapid_dist.specs import RunSpec
from rapid_dist.storage.manifest import FileEntry, Manifest, open_artifact
from rapid_dist.storage.stage import StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, read_all_images
from rapid_dist.telemetry import Progress
from rapid_dist.training.collective import Collective, agree
from rapid_dist.training.public import PublicTrainer, partition_from_arrays
from rapid_dist.training.state import CheckpointFolder


def run_pretrain(spec: RunSpec, images: Store, out: Store) -> Manifest:
    """Trains autoencoder, denoiser and extractor on public images and writes their weights."""
    source = open_artifact(images, stage=INGEST, privacy_classes=("public",))
    folder = StageFolder(out, stage=PRETRAIN, spec=pretrain_spec(spec), inputs={"public": source.digest})
    if folder.finished is not None:
        return folder.finished
    with relayed_recorder() as recorder:
        answer = run_workers(
            _train_public_models,
            {"spec": spec, "images": images, "out": out, "recorder": recorder},
            runtime=spec.runtime,
            name=PRETRAIN,
        )
    return folder.finish(
        privacy_class="public",
        files=[FileEntry(**f) for f in answer["files"]],
        facts={"image_shape": source.facts["image_shape"], "num_public_classes": source.facts["num_labels"]},
    )


def pretrain_spec(spec: RunSpec) -> dict[str, Any]:
    """What public models depend on. The split step does not matter here, so a sweep over it shares the weights."""
    sections = spec.sections("autoencoder", "denoiser", "pretrain", "extractor")
    schedule = {k: v for k, v in spec.sections("schedule")["schedule"].items() if k != "split_step"}
    return {**sections, "schedule": schedule}


def _train_public_models(collective: Collective, arguments: dict[str, Any]) -> dict[str, Any]:
    spec, images, out, device = (arguments[k] for k in ("spec", "images", "out", "device"))
    recorder = arguments["recorder"] if collective.rank == 0 else Recorder()
    group_started(recorder, PRETRAIN)

    def load():
        manifest = open_artifact(images, stage=INGEST, privacy_classes=("public",))
        table = read_all_images(images, manifest, rank=collective.rank, world_size=collective.world_size)
        if not len(table):
            raise InputError(f"{images.uri} has too few images for {collective.world_size} workers; use fewer")
        return manifest, table

    manifest, table = agree(collective, load)
    num_classes = manifest.facts["num_labels"]
    models = build_public_models(
        spec, image_shape=tuple(manifest.facts["image_shape"]), num_public_classes=num_classes, device=device
    )
    bars: dict[str, Progress] = {}

    def on_step(phase: str, step: int, steps: int) -> None:
        if collective.rank == 0:
            bars.setdefault(phase, Progress(phase, steps, first=step - 1, say_fn=arguments["say"])).update(step)

    trainer = PublicTrainer(
        spec,
        partition_from_arrays(table.image, table.label),
        collective=collective,
        checkpoints=lambda phase: CheckpointFolder(out.child(f"checkpoints/{phase}"), keep=1),
        device=device,
        on_step=on_step,
        recorder=recorder,
    )
    autoencoder, denoiser, extractor = models.autoencoder, models.denoiser, models.extractor
    trainer.train_autoencoder(autoencoder)
    trainer.train_denoiser(denoiser, autoencoder, models.alphas_cumprod, num_classes)
    trainer.train_extractor(extractor, denoiser, autoencoder, models.alphas_cumprod, num_classes)
    if collective.rank > 0:
        return {}
    saved = {"autoencoder": autoencoder, "denoiser": denoiser, "extractor": extractor}
    return {"files": [asdict(save_weights(out, f"{n}.safetensors", m.state_dict())) for n, m in saved.items()]}
