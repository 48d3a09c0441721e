"""The sample stages: batches of synthetic images in parallel, private ones and public-only ones for comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rapid_dist.errors import ArtifactError
from rapid_dist.knowledge_base.files import BUILD, open_knowledge_base
from rapid_dist.knowledge_base.search import TrajectorySearch
from rapid_dist.knowledge_base.versions import version_of
from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import current_recorder
from rapid_dist.metrics.steps import MeasuredSearch
from rapid_dist.models.public import PRETRAIN, load_into, open_public_models, read_weights
from rapid_dist.runtime.parts import map_parts
from rapid_dist.runtime.query_service import routing_section, served_search
from rapid_dist.runtime.session import available_cpus
from rapid_dist.sampling.draw import (
    Draw,
    evaluations_per_image,
    labels_of_counts,
    private_sampler,
    sample_labels,
    sample_public_only,
)
from rapid_dist.specs import RunSpec
from rapid_dist.stages.train import TRAIN, WEIGHTS
from rapid_dist.storage.manifest import FileEntry, Manifest, open_artifact, read_file
from rapid_dist.storage.stage import FinishedParts, StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import ImageTable, table_arrays, write_images
from rapid_dist.telemetry import headed, say
from rapid_dist.training.plan import fitted_statistics
from rapid_dist.training.private import STATISTICS, VOTES

SAMPLE = "sample"
SAMPLE_PUBLIC = "sample_public_only"


@dataclass(frozen=True, kw_only=True)
class FurtherDraw:
    """Images to draw after those of the run itself: how many of each class, and the index of the first.

    An index of its own gives each image other random numbers than any of the run's own images has.
    """

    counts: tuple[int, ...]
    first_index: int


def run_sample(
    spec: RunSpec,
    pretrain: Store,
    knowledge_base: Store | None,
    train: Store,
    out: Store,
    further: FurtherDraw | None = None,
) -> Manifest:
    """Draws sampling.num_samples images from the private model; class dp, with the training's privacy statement.

    further: images drawn later than the run's own, into a folder of their own; their number is that of the spec.

    Guarantee: reads artefacts of class dp and public only, so more images cost no privacy beyond what is stated.
    """
    trained = open_artifact(train, stage=TRAIN, privacy_classes=("dp",))
    inputs = {"train": trained.digest, "pretrain": _digest(pretrain, PRETRAIN)}
    base = None
    if spec.uses_retrieval:
        base = open_artifact(knowledge_base, stage=BUILD, privacy_classes=("public",))
        _require_same_base(knowledge_base, base, trained)
        inputs["knowledge_base"] = base.digest
    sections = _sections(spec)
    if further is not None:
        sections["further"] = asdict(further)
    folder = StageFolder(out, stage=SAMPLE, spec=sections, inputs=inputs)
    if folder.finished is not None:
        return folder.finished
    with served_search(spec.knowledge_base, knowledge_base, base) as search:
        arguments = (spec, pretrain, knowledge_base, base, search, train, out, further)
        files = _map_batches(_make_private_sampler, arguments, spec, out, SAMPLE)
    facts = {"evaluations": evaluations_per_image(spec), "statement": trained.facts["statement"]}
    if further is not None:  # such a folder may lie far from its run, so it says itself what its labels are called
        names = None if spec.data.class_names is None else list(spec.data.class_names)
        facts |= {"run": spec.name, "num_classes": spec.data.num_classes, "class_names": names}
    manifest = folder.finish(
        privacy_class="dp", files=files, facts=facts, not_private_reasons=trained.not_private_reasons
    )
    FinishedParts(out, SAMPLE).clear()
    return manifest


def run_sample_public_only(spec: RunSpec, pretrain: Store, out: Store) -> Manifest:
    """Draws as many images from the public model alone; class public, epsilon 0."""
    folder = StageFolder(
        out, stage=SAMPLE_PUBLIC, spec=_sections(spec), inputs={"pretrain": _digest(pretrain, PRETRAIN)}
    )
    if folder.finished is not None:
        return folder.finished
    files = _map_batches(_make_public_sampler, (spec, pretrain, out), spec, out, SAMPLE_PUBLIC)
    manifest = folder.finish(privacy_class="public", files=files)
    FinishedParts(out, SAMPLE_PUBLIC).clear()
    return manifest


def draw_samples(
    spec: RunSpec, pretrain: Store, knowledge_base: Store | None, train: Store, index: np.ndarray, label: np.ndarray
) -> np.ndarray:
    """Draws images (n, C, H, W) uint8 of a finished training in this process, without Ray, and writes nothing.

    index, label: (n,) int64; image i is a function of the spec's sampling.seed, index i and label i, up to rounding.

    Guarantee: reads artefacts of class dp and public only, so it costs no privacy beyond what their ledger counts.
    Raises ArtifactError when something is not finished or the base changed after training.
    """
    trained = open_artifact(train, stage=TRAIN, privacy_classes=("dp",))
    open_artifact(pretrain, stage=PRETRAIN, privacy_classes=("public",))
    base = None
    if spec.uses_retrieval:
        base = open_artifact(knowledge_base, stage=BUILD, privacy_classes=("public",))
        _require_same_base(knowledge_base, base, trained)
    if trained.not_private_reasons:
        say(headed("sample", f"NOT PRIVATE: {'; '.join(trained.not_private_reasons)}"))
    draw, size = _open_private_draw(spec, pretrain, knowledge_base, base, None, train), spec.sampling.batch_size
    parts = [draw(index[i : i + size], label[i : i + size]) for i in range(0, len(index), size)]
    return np.concatenate(parts)


def _require_same_base(store: Store, base: Manifest, trained: Manifest) -> None:
    """Raises ArtifactError when the base changed after training: sampling must start where training learnt to."""
    if trained.inputs.get("knowledge_base") != base.digest:
        raise ArtifactError(
            f"{store.uri} is now version {version_of(base)} of the knowledge base, not the one the private model was "
            "trained with; train with it in a new --out folder, or sample from a copy of the base as it was"
        )


def _digest(store: Store, stage: str) -> str:
    return open_artifact(store, stage=stage, privacy_classes=("public",)).digest


def _sections(spec: RunSpec) -> dict[str, Any]:
    label_map = {str(k): v for k, v in spec.knowledge_base.label_map.items()}
    return {
        **spec.sections("sampling", "schedule"),
        "num_classes": spec.data.num_classes,
        "label_map": label_map,
        **routing_section(spec),
    }


def _map_batches(make_fn: Callable, arguments: tuple, spec: RunSpec, out: Store, name: str) -> list[FileEntry]:
    num_parts = -(-spec.sampling.num_samples // spec.sampling.batch_size)
    results = map_parts(make_fn, arguments, num_parts, store=out, name=name, num_actors=available_cpus())
    return [FileEntry(**r["file"]) for r in results]


def _batch_writer(spec: RunSpec, out: Store, draw: Draw, model: str, further: FurtherDraw | None = None):
    """A part function that draws one batch of sample indices and writes it. model: private or public, for metrics."""
    sampling = spec.sampling
    if further is None:
        labels = sample_labels(sampling.num_samples, spec.data.num_classes, sampling.class_proportions, sampling.seed)
    else:
        labels = labels_of_counts(further.counts, spec.data.num_classes, sampling.seed)
    first = 0 if further is None else further.first_index
    is_private_model = model == "private"
    said = {
        "stage": SAMPLE if is_private_model else SAMPLE_PUBLIC,
        "privacy_class": "dp" if is_private_model else "public",
    }

    def sample(part: int) -> dict[str, Any]:
        index = np.arange(part * sampling.batch_size, min((part + 1) * sampling.batch_size, sampling.num_samples))
        label = labels[index]
        index = index + first
        table = ImageTable(example_id=index, image=draw(index, label), label=label.astype(np.int32))
        current_recorder().add(catalog.SAMPLES, len(index), model=model)
        return {"file": asdict(write_images(out, f"parts/part-{part:05d}.parquet", table, **said))}

    return sample


def _make_private_sampler(
    spec: RunSpec,
    pretrain: Store,
    knowledge_base: Store | None,
    base: Manifest | None,
    search: TrajectorySearch | None,
    train: Store,
    out: Store,
    further: FurtherDraw | None,
) -> Callable[[int], dict[str, Any]]:
    draw = _open_private_draw(spec, pretrain, knowledge_base, base, search, train)
    return _batch_writer(spec, out, draw, "private", further)


def _open_private_draw(
    spec: RunSpec,
    pretrain: Store,
    knowledge_base: Store | None,
    base: Manifest | None,
    search: TrajectorySearch | None,
    train: Store,
) -> Draw:
    """The private sampler of finished artefacts; search: None opens the base in this process."""
    from rapid_dist.models.denoisers import build_denoiser
    from rapid_dist.seeding import make_generator

    device = spec.runtime.device
    models = open_public_models(spec, pretrain, open_artifact(pretrain, stage=PRETRAIN), device=device)
    trained = open_artifact(train, stage=TRAIN)
    denoiser = build_denoiser(
        spec.denoiser,
        latent_shape=models.latent_shape,
        num_conditions=spec.data.num_classes,
        generator=make_generator(0, "shape"),
    ).to(device)
    load_into(denoiser, read_weights(train, trained, WEIGHTS), where=f"{train.uri}/{WEIGHTS}")
    denoiser.eval().requires_grad_(False)
    noisy, gaussians = None, None
    if spec.starts_from_statistics:
        released = _released(train, trained, STATISTICS)["noisy_statistics"]
        noise_multiplier = trained.facts["statistics_noise_multiplier"]
        gaussians = fitted_statistics(
            spec, released, models.latent_shape, noise_multiplier, spread=spec.sampling.spread
        )
    if spec.uses_retrieval:
        if search is None:
            search = open_knowledge_base(spec.knowledge_base, knowledge_base, base)
        if spec.sampling.starts == "votes":
            noisy = _released(train, trained, VOTES)["noisy_votes"]
        search = MeasuredSearch(search, current_recorder(), "sample")
    num_prototypes = 0 if base is None else base.facts["num_prototypes"]
    return private_sampler(
        spec, models, denoiser, search, noisy, num_prototypes=num_prototypes, device=device, gaussians=gaussians
    )


def _released(train: Store, trained: Manifest, path: str) -> dict[str, np.ndarray]:
    entry = next(f for f in trained.files if f.path == path)
    return table_arrays(read_file(train, entry), where=entry.path)


def _make_public_sampler(spec: RunSpec, pretrain: Store, out: Store) -> Callable[[int], dict[str, Any]]:
    device = spec.runtime.device
    models = open_public_models(spec, pretrain, open_artifact(pretrain, stage=PRETRAIN), device=device)

    def draw(index: np.ndarray, label: np.ndarray) -> np.ndarray:
        return sample_public_only(spec, models, index, label, device=device)

    return _batch_writer(spec, out, draw, "public")
