"""How good a trial is, always so that more is better: on public images, or by a paid count on private ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rapid_dist.artifacts.images import ImageTable
from rapid_dist.errors import InputError
from rapid_dist.evaluation.classifier import accuracy_of, predict, train_classifier
from rapid_dist.evaluation.features import classifier_features
from rapid_dist.evaluation.likeness import frechet_distance
from rapid_dist.evaluation.small_cnn import SmallCnn
from rapid_dist.sampling.labels import sample_labels
from rapid_dist.seeding import make_rng
from rapid_dist.specs import EvaluationSpec, RunSpec

BATCH_SIZE = 500


def draw_samples(spec: RunSpec, draw: Callable[[np.ndarray, np.ndarray], np.ndarray], num_samples: int) -> ImageTable:
    """num_samples images of a private model with their labels, by the spec's own sampling settings."""
    sampling = spec.sampling
    labels = sample_labels(num_samples, spec.data.num_classes, sampling.class_proportions, sampling.seed)
    index = np.arange(num_samples)
    images = [draw(index[i : i + BATCH_SIZE], labels[i : i + BATCH_SIZE]) for i in range(0, num_samples, BATCH_SIZE)]
    return ImageTable(example_id=index, image=np.concatenate(images), label=labels.astype(np.int32))


def scoring_classifier(
    table: ImageTable, evaluation: EvaluationSpec, *, num_classes: int, num_epochs: int, device: str
) -> SmallCnn:
    """A classifier trained on these images alone, with the evaluation's batch size, rate and seed."""
    return train_classifier(
        table.image,
        table.label,
        num_classes=num_classes,
        num_epochs=num_epochs,
        batch_size=evaluation.classifier_batch_size,
        learning_rate=evaluation.classifier_learning_rate,
        seed=evaluation.seed,
        device=device,
    )


def accuracy_score(model: SmallCnn, held_out: ImageTable) -> float:
    """Share of held-out public images that a classifier trained on synthetic ones labels rightly, 0 to 1."""
    return accuracy_of(model, held_out.image, held_out.label).accuracy


def count_right(model: SmallCnn, records: ImageTable) -> int:
    """How many of these records the classifier labels rightly; private when they are, one record moves it by one."""
    if not len(records):
        return 0
    return int((predict(model, records.image) == records.label).sum())


def likeness_score(
    synthetic: ImageTable, public: ImageTable, evaluation: EvaluationSpec, *, num_epochs: int, device: str
) -> float:
    """Minus the Frechet distance of synthetic and public images in features of a network trained on public labels.

    Raises InputError when the public images have no labels to train such a network on.
    """
    num_labels = int(public.label.max()) + 1 if len(public) else 0
    if num_labels < 2 or (public.label < 0).any():
        raise InputError("objective public_fid needs labelled public images of at least two classes; got none")
    limit = evaluation.max_likeness_examples
    if len(public) > limit:
        rows = np.sort(make_rng(evaluation.seed, "public-reference").permutation(len(public))[:limit])
        public = ImageTable(example_id=public.example_id[rows], image=public.image[rows], label=public.label[rows])
    network = scoring_classifier(public, evaluation, num_classes=num_labels, num_epochs=num_epochs, device=device)
    features = classifier_features(network)
    return -frechet_distance(features.extract(public.image), features.extract(synthetic.image))
