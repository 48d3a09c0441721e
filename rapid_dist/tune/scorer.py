"""What every worker of a trial does between blocks of training: draw, score, keep the score, ask whether to go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rapid_dist.errors import InputError
from rapid_dist.evaluation.classifier import SmallCnn, accuracy_of, predict, train_classifier
from rapid_dist.evaluation.likeness import classifier_features, frechet_distance
from rapid_dist.knowledge_base.files import open_knowledge_base
from rapid_dist.knowledge_base.search import TrajectorySearch
from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.privacy.ledger import PaidSteps
from rapid_dist.privacy.release import noise_histogram
from rapid_dist.sampling.draw import private_sampler, sample_labels
from rapid_dist.seeding import make_generator, make_rng
from rapid_dist.specs import EvaluationSpec, RunSpec, TrainingSpec
from rapid_dist.specs.study import TuneSpec
from rapid_dist.storage.manifest import Manifest, open_artifact
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, ImageTable, read_all_images
from rapid_dist.training.collective import on_rank_zero
from rapid_dist.training.plan import fitted_statistics
from rapid_dist.training.private import BlockEnd
from rapid_dist.tune.costs import accuracy_charge

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


class GoOn(Protocol):
    """Hears of a rung's score, and returns once the trial may go on."""

    def __call__(self, step: int, score: float) -> None: ...


def rung_steps(training: TrainingSpec, num_rungs: int) -> tuple[int, ...]:
    """The steps after which a trial is scored: equal parts, at the ends of blocks; the last is the last step."""
    block = training.checkpoint_every
    ends = {math.ceil(training.steps * k / num_rungs / block) * block for k in range(1, num_rungs + 1)}
    return tuple(sorted({min(end, training.steps) for end in ends}))


def rung_number(training: TrainingSpec, num_rungs: int, step: int) -> int:
    """Returns which rung a score after this step belongs to, from 1; a restart does not change it."""
    return 1 + sum(end < step for end in rung_steps(training, num_rungs))


@dataclass(frozen=True, kw_only=True)
class TrialScorer:
    """Scores a trial at its rungs into files of its folder; it pickles.

    reference: held-out public images for proxy_accuracy, public images for public_fid, the records themselves for
    noisy_accuracy. go_on: None lets the trial run through.
    Guarantee: noisy_accuracy is paid for before it is drawn, and nothing else of a private record is looked at.
    """

    spec: RunSpec
    tune: TuneSpec
    folder: Store
    reference: Store
    knowledge_base: Store | None
    base: Manifest | None
    search: TrajectorySearch | None = None
    go_on: GoOn | None = None

    def at_block_end(self, end: BlockEnd) -> None:
        """Scores the trial if this step is a rung that has no score yet."""
        step = end.state.step
        if step in rung_steps(self.spec.training, self.tune.num_rungs):
            self._at_rung(end, is_last=step == self.spec.training.steps)

    def at_end(self, end: BlockEnd) -> None:
        """Scores the trial where it ended, if no rung did."""
        self._at_rung(end, is_last=True)

    def _at_rung(self, end: BlockEnd, *, is_last: bool) -> None:
        collective, step = end.collective, end.state.step
        score = on_rank_zero(collective, lambda: read_rung(self.folder, step))
        if score is None:
            score = self._score(end)
            on_rank_zero(collective, lambda: write_rung(self.folder, step, score))
        if self.go_on is not None and not is_last:
            on_rank_zero(collective, lambda: self.go_on(step, score))

    def _score(self, end: BlockEnd) -> float:
        if self.tune.score_name == "noisy_accuracy":
            return self._noisy_accuracy(end)
        return on_rank_zero(end.collective, lambda: self._public_score(end))

    def _public_score(self, end: BlockEnd) -> float:
        synthetic = self._draw(end)
        source = open_artifact(self.reference, stage=INGEST, privacy_classes=("public",))
        reference, evaluation, epochs = read_all_images(self.reference, source), self.spec.evaluation, self._epochs
        if self.tune.score_name == "public_fid":
            return likeness_score(synthetic, reference, evaluation, num_epochs=epochs, device=end.device)
        return accuracy_score(self._classifier(synthetic, end.device), reference)

    def _noisy_accuracy(self, end: BlockEnd) -> float:
        """Right answers on all records, plus noise, over the stated number of records; from 0 to 1."""
        collective, charge = end.collective, accuracy_charge(self.tune)

        def pay() -> dict[str, Any]:
            return end.attempt.ledger.charge(charge, attempt=end.attempt.number, first_step=end.state.step).to_dict()

        model = self._shared_classifier(end)
        source = open_artifact(self.reference, stage=INGEST, privacy_classes=("private",))
        mine = read_all_images(self.reference, source, rank=collective.rank, world_size=collective.world_size)
        right = torch.tensor([float(count_right(model, mine))], dtype=torch.float64, device=end.device)
        total = collective.sum(right).cpu().numpy().reshape(1, 1)
        paid = PaidSteps.from_dict(on_rank_zero(collective, pay))
        noisy = on_rank_zero(collective, lambda: float(noise_histogram(total, key=end.attempt.key, paid=paid)[0, 0]))
        return min(max(noisy / self.spec.privacy.nominal_size, 0.0), 1.0)

    def _shared_classifier(self, end: BlockEnd) -> SmallCnn:
        """Rank 0's classifier on every worker: a function of the private model, so released within the budget."""
        data = b""
        if end.collective.rank == 0:
            data = save_tensors(self._classifier(self._draw(end), end.device).state_dict())
        weights = load_tensors(end.collective.broadcast(data))
        channels, size, _ = end.inputs.image_shape
        model = SmallCnn(
            num_channels=channels,
            image_size=size,
            num_classes=self.spec.data.num_classes,
            generator=torch.Generator().manual_seed(0),
        ).to(end.device)
        model.load_state_dict(weights)
        return model.eval()

    @property
    def _epochs(self) -> int:
        return self.tune.classifier_epochs

    def _classifier(self, synthetic: Any, device: str) -> SmallCnn:
        return scoring_classifier(
            synthetic,
            self.spec.evaluation,
            num_classes=self.spec.data.num_classes,
            num_epochs=self._epochs,
            device=device,
        )

    def _draw(self, end: BlockEnd) -> Any:
        denoiser = build_denoiser(
            self.spec.denoiser,
            latent_shape=end.inputs.models.latent_shape,
            num_conditions=self.spec.data.num_classes,
            generator=make_generator(0, "shape"),
        ).to(end.device)
        denoiser.load_state_dict(end.state.averaged_weights())
        denoiser.eval().requires_grad_(False)
        search = self.search
        if search is None and self.base is not None:
            search = open_knowledge_base(self.spec.knowledge_base, self.knowledge_base, self.base)
        draw = private_sampler(
            self.spec,
            end.inputs.models,
            denoiser,
            search,
            end.votes,
            num_prototypes=end.inputs.num_prototypes,
            device=end.device,
            gaussians=fitted_statistics(
                self.spec,
                end.statistics,
                end.inputs.models.latent_shape,
                self.spec.statistics.noise_multiplier,
                spread=self.spec.sampling.spread,
            )
            if self.spec.starts_from_statistics
            else None,
        )
        return draw_samples(self.spec, draw, self.tune.num_scored_samples)


def rung_file(step: int) -> str:
    """Where the score after a step lies in a trial's folder."""
    return f"rungs/step-{step:08d}.json"


def read_rung(folder: Store, step: int) -> float | None:
    """The score after a step; None when it was not scored yet."""
    name = rung_file(step)
    return json.loads(folder.read_bytes(name))["score"] if folder.exists(name) else None


def write_rung(folder: Store, step: int, score: float) -> None:
    """Keeps the score after a step."""
    folder.write_bytes(rung_file(step), json.dumps({"step": step, "score": score}).encode())


def read_rungs(folder: Store) -> tuple[tuple[int, float], ...]:
    """All scores of a trial, by step."""
    names = [n for n in folder.list_files("rungs") if n.endswith(".json")]
    plain = [json.loads(folder.read_bytes(f"rungs/{name}")) for name in names]
    return tuple(sorted((p["step"], p["score"]) for p in plain))
