"""All measurements of one run, from image tables to results: usefulness, likeness, copies, pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from rapid_dist.evaluation.classifier import AccuracyResult, accuracy_of, train_classifier
from rapid_dist.evaluation.copies import CopyCheckResult, check_copies
from rapid_dist.evaluation.likeness import (
    FeatureExtractor,
    LikenessResult,
    classifier_features,
    inception_features,
    measure_likeness,
)
from rapid_dist.evaluation.pictures import image_grid
from rapid_dist.seeding import make_rng
from rapid_dist.specs import EvaluationSpec
from rapid_dist.storage.tables import ImageTable
from rapid_dist.telemetry import headed

NO_TEST = "no held-out images were given (data.test)"
NO_CLASSES = "the run has no classes (data.num_classes is 0)"
NO_PUBLIC_MODEL = "there is no public model (pretrain.steps is 0)"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The images that evaluation reads; test is None when none were given, public_only where no public model is."""

    synthetic: ImageTable
    public_only: ImageTable | None
    train: ImageTable
    public: ImageTable
    test: ImageTable | None


@dataclass(kw_only=True)
class Measurements:
    """What was measured, and for what was not, why."""

    accuracies: dict[str, AccuracyResult | None] = field(default_factory=dict)
    likeness: LikenessResult | None = None
    copy_check: CopyCheckResult | None = None
    reasons: dict[str, str] = field(default_factory=dict)


def measure_run(
    spec: EvaluationSpec, tables: Tables, *, num_classes: int, device: str, say_fn: Callable[[str], None]
) -> Measurements:
    """Measures everything the tables allow; what cannot be measured has its reason."""
    measured = Measurements()
    train_fn = partial(
        train_classifier,
        num_epochs=spec.classifier_epochs,
        batch_size=spec.classifier_batch_size,
        learning_rate=spec.classifier_learning_rate,
        seed=spec.seed,
        device=device,
    )
    _measure_accuracies(spec, tables, measured, train_fn, num_classes, say_fn)
    extractor = _feature_extractor(spec, tables.public, train_fn, device)
    reference = tables.train if tables.test is None else tables.test
    if extractor is None:
        measured.reasons |= dict.fromkeys(
            ("fid", "precision", "recall", "density", "coverage"),
            "public images have no labels to train features on, and evaluation.feature_weights names no network",
        )
    else:
        say_fn(headed("evaluate", f"likeness on {extractor.name}"))
        measured.likeness = measure_likeness(
            reference.image,
            tables.synthetic.image,
            extractor,
            max_examples=spec.max_likeness_examples,
            seed=spec.seed,
        )
    if tables.test is None:
        measured.reasons["copy_check"] = NO_TEST
    else:
        say_fn(headed("evaluate", "nearest private example of each sample"))
        samples = _subset(tables.synthetic, spec.max_likeness_examples, spec.seed).image
        measured.copy_check = check_copies(
            samples, tables.train.image, tables.test.image, seed=spec.seed, device=device
        )
    return measured


def _measure_accuracies(spec, tables: Tables, measured: Measurements, train_fn, num_classes, say_fn) -> None:
    names = ("synthetic", "public_only", "real")
    if tables.test is None or num_classes == 0:
        reason = NO_TEST if tables.test is None else NO_CLASSES
        measured.reasons |= {f"accuracy.{name}": reason for name in names}
        return
    # The ceiling gets as many images as the synthetic classifier, so that only their origin differs.
    sources = {
        "synthetic": tables.synthetic,
        "public_only": tables.public_only,
        "real": _subset(tables.train, len(tables.synthetic), spec.seed),
    }
    for name, table in sources.items():
        if table is None:
            measured.reasons[f"accuracy.{name}"] = NO_PUBLIC_MODEL
            continue
        say_fn(headed("evaluate", f"classifier trained on {name} images"))
        model = train_fn(table.image, table.label, num_classes=num_classes)
        measured.accuracies[name] = accuracy_of(model, tables.test.image, tables.test.label)


def _feature_extractor(spec: EvaluationSpec, public: ImageTable, train_fn, device: str) -> FeatureExtractor | None:
    """Inception by path, else a small network trained on public labels."""
    if spec.feature_weights is not None:
        return inception_features(spec.feature_weights, device=device)
    num_labels = int(public.label.max()) + 1 if len(public) else 0
    if num_labels < 2 or (public.label < 0).any():
        return None
    table = _subset(public, 20_000, spec.seed)
    return classifier_features(train_fn(table.image, table.label, num_classes=num_labels))


def _subset(table: ImageTable, count: int, seed: int) -> ImageTable:
    """At most count rows, drawn by seed."""
    if len(table) <= count:
        return table
    rows = np.sort(make_rng(seed, "subset", count).permutation(len(table))[:count])
    return ImageTable(example_id=table.example_id[rows], image=table.image[rows], label=table.label[rows])


def draw_grids(
    spec: EvaluationSpec, tables: Tables, *, num_classes: int, class_names: tuple[str, ...] | None
) -> tuple[bytes, bytes]:
    """Two PNG contact sheets, by class: one with real rows (private), one of released images only.

    Images are drawn by seed, never picked.
    """
    given = [("real", tables.test), ("public", tables.public_only), ("synthetic", tables.synthetic)]
    sources = [(name, table) for name, table in given if table is not None]
    size = tables.synthetic.image.shape[-1]
    scale = max(1, 40 // size)
    rows = []
    for c in range(max(1, num_classes)):
        name = class_names[c] if class_names else str(c)
        for source, table in sources:
            of_class = np.flatnonzero(table.label == c) if num_classes else np.arange(len(table))
            chosen = make_rng(spec.seed, "grid", c).permutation(of_class)[: spec.grid_columns]
            rows.append((source, f"{source} {name}" if num_classes else source, table.image[chosen]))
    everything = image_grid([(label, images) for _, label, images in rows], scale=scale)
    released = image_grid([(label, images) for source, label, images in rows if source != "real"], scale=scale)
    return everything, released
