"""Mistakes that private training has been seen to make elsewhere, planted into the trainer by replacing its parts.

Each is a function of `replace(owner, name, value)`, which a test binds to monkeypatch.setattr, and a worker process
to setattr.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapid_dist.audit import observe
from rapid_dist.ingest import dataset, decode, sources
from rapid_dist.ingest import parquet as parquet_source
from rapid_dist.ingest.folder import list_class_units
from rapid_dist.ingest.pixels import to_pixels
from rapid_dist.privacy import clipping, statistics
from rapid_dist.privacy import plan as step_module
from rapid_dist.privacy.clipping import clip_factors
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.noise import draw_gaussian
from rapid_dist.privacy.plan import PrivacyPlan, PrivateStep
from rapid_dist.privacy.statistics import sum_statistics
from rapid_dist.training import private as private_run
from rapid_dist.training import private_data as private_inputs
from rapid_dist.training.state import CheckpointFolder

Replace = Callable[[Any, str, Any], None]


def noise_on_every_rank_then_averaged(replace: Replace) -> None:
    def release(self, local_sum, workers):
        plan, total = self._plan, workers.sum(local_sum)
        noise = draw_gaussian(
            self._key,
            attempt=self._attempt,
            step=self.number,
            first_coordinate=workers.rank * len(total),
            num_coordinates=len(total),
            stddev=plan.noise_stddev,
        )
        averaged = workers.sum(total + noise) / workers.world_size
        return averaged / (plan.expected_batch_size * plan.max_grad_norm)

    replace(PrivateStep, "release", release)


def same_noise_generator_on_all_ranks(replace: Replace) -> None:
    """Each worker noises its own slice, all from the start of one stream."""

    def from_the_start(key, *, first_coordinate, **settings):
        return draw_gaussian(key, first_coordinate=0, **settings)

    replace(step_module, "draw_gaussian", from_the_start)


def same_sampling_generator_on_all_ranks(replace: Replace) -> None:
    """A record's coin belongs to its row on its worker, so the workers' batches are twins."""

    def included(self, example_ids):
        rows = np.arange(len(example_ids), dtype=np.int64)
        return draw_inclusion(
            self._key,
            attempt=self._attempt,
            step=self.number,
            example_ids=rows,
            sample_rate=self._plan.sample_rate,
        )

    replace(PrivateStep, "included", included)


def num_examples(examples: tuple[torch.Tensor, ...], settings: dict[str, Any]) -> int:
    return len(examples[0]) // settings["rows_per_example"]


def empty_batches_dropped(replace: Replace) -> None:
    """A step whose batch is empty everywhere is skipped: nothing is released, noise neither."""
    clipped_sum, release = PrivateStep.clipped_sum, PrivateStep.release

    def counting(self, loss_fn, model, examples, **settings):
        self.batch_size = num_examples(examples, settings)
        return clipped_sum(self, loss_fn, model, examples, **settings)

    def skipping(self, local_sum, workers):
        if workers.sum(torch.tensor([float(self.batch_size)])).item() == 0:
            return torch.zeros_like(local_sum)
        return release(self, local_sum, workers)

    replace(PrivateStep, "clipped_sum", counting)
    replace(PrivateStep, "release", skipping)


def empty_local_batches_dropped(replace: Replace) -> None:
    """Each worker skips the steps in which it has no record itself, as a loader that drops empty batches makes it."""
    train_privately, private_steps = private_run.train_privately, PrivacyPlan.private_steps

    def train(state, partition, run, **settings):
        def own_steps(self, key, paid):
            return (s for s in private_steps(self, key, paid) if s.included(partition.example_id).any())

        own = type("OwnPlan", (PrivacyPlan,), {"private_steps": own_steps})
        run = dataclasses.replace(run, plan=own(**dataclasses.asdict(run.plan)))
        return train_privately(state, partition, run, **settings)

    replace(private_run, "train_privately", train)


def mean_over_the_actual_batch(replace: Replace) -> None:
    """Every worker divides by the number of its own records in the batch instead of a constant."""
    clipped_sum = PrivateStep.clipped_sum

    def averaged(self, loss_fn, model, examples, **settings):
        total = clipped_sum(self, loss_fn, model, examples, **settings)
        return total * (self._plan.expected_batch_size / max(1, num_examples(examples, settings)))

    replace(PrivateStep, "clipped_sum", averaged)


def released_mean_over_the_actual_batch(replace: Replace) -> None:
    """The noised sum is divided by the size of the batch that was drawn, as a loss with reduction='mean' does."""
    clipped_sum, release = PrivateStep.clipped_sum, PrivateStep.release

    def counting(self, loss_fn, model, examples, **settings):
        self.batch_size = num_examples(examples, settings)
        return clipped_sum(self, loss_fn, model, examples, **settings)

    def averaging(self, local_sum, workers):
        size = workers.sum(torch.tensor([float(self.batch_size)])).item()
        return release(self, local_sum, workers) * (self._plan.expected_batch_size / max(1.0, size))

    replace(PrivateStep, "clipped_sum", counting)
    replace(PrivateStep, "release", averaging)


def normaliser_from_len_dataset(replace: Replace) -> None:
    train_privately = private_run.train_privately

    def train(state, partition, run, *, collective, **settings):
        size = collective.sum(torch.tensor([float(len(partition))])).item()
        counted = dataclasses.replace(run.plan, expected_batch_size=run.plan.sample_rate * max(1.0, size))
        run = dataclasses.replace(run, plan=counted)
        return train_privately(state, partition, run, collective=collective, **settings)

    replace(private_run, "train_privately", train)


def draws_clipped_as_separate_records(replace: Replace) -> None:
    clipped_sum = PrivateStep.clipped_sum

    def apart(self, loss_fn, model, examples, **settings):
        return clipped_sum(self, loss_fn, model, examples, **{**settings, "rows_per_example": 1})

    replace(PrivateStep, "clipped_sum", apart)


def clipping_per_layer(replace: Replace) -> None:
    def each_layer(loss_fn, model, examples, *, max_grad_norm, rows_per_example, **settings):
        total = []
        for first in range(0, len(examples[0]), rows_per_example):
            one = tuple(t[first : first + rows_per_example] for t in examples)
            summed = clipping._vmap_engine(loss_fn, model, one, rows_per_example, 1e30)
            total.append([g * clip_factors(g.double().square().sum(), max_grad_norm).float() for g in summed])
        size = sum(p.numel() for p in model.parameters())
        rows = [torch.cat([g.flatten() for g in gradients]).double() for gradients in total]
        return torch.stack(rows).sum(0) if rows else torch.zeros(size, dtype=torch.float64)

    replace(step_module, "clipped_gradient_sum", each_layer)


def nan_record_poisons_the_sum(replace: Replace) -> None:
    def factors(squared_norms, max_grad_norm):
        return (max_grad_norm / squared_norms.double().sqrt().clamp(min=1e-300)).clamp(max=1.0)

    replace(clipping, "clip_factors", factors)
    replace(clipping, "_zero_non_finite", lambda rows, factors: rows)


def noise_key_reused_after_a_restart(replace: Replace) -> None:
    """One key for all attempts, and noise addressed by the step alone."""
    secret, make = secrets.token_bytes(32), PrivateStep.__init__

    def always_first(self, plan, key, paid, number):
        make(self, plan, key, paid, number)
        self._attempt = 1

    replace(RunKey, "fresh", classmethod(lambda cls: cls(secret, is_private=True)))
    replace(PrivateStep, "__init__", always_first)


def ledger_restored_from_a_checkpoint(replace: Replace) -> None:
    """The ledger travels with the checkpoint: what was charged after it is forgotten when training resumes."""
    save, join = CheckpointFolder.save, observe.join_ledger

    def saving(self, state, *notes):
        names = sorted(path.name for path in (Path(self.store.uri).parent / "ledger").iterdir())
        (Path(self.store.uri).parent / "ledger-at-checkpoint").write_text("\n".join(names))
        return save(self, state, *notes)

    def restoring(store, **terms):
        known = Path(store.uri).parent / "ledger-at-checkpoint"
        if known.exists():
            for path in Path(store.uri).iterdir():
                if path.name not in known.read_text().split():
                    path.unlink()
        return join(store, **terms)

    replace(CheckpointFolder, "save", saving)
    replace(observe, "join_ledger", restoring)


def shuffling_in_place_of_poisson(replace: Replace) -> None:
    """Each worker shuffles its records once an epoch and takes batches of a fixed size."""

    def included(self, example_ids):
        size = len(example_ids)
        batch = max(1, round(self._plan.sample_rate * size))
        epoch, place = divmod(self.number, max(1, size // batch))
        order = np.random.default_rng((self._attempt, epoch)).permutation(size)
        is_in = np.zeros(size, dtype=bool)
        is_in[order[place * batch : (place + 1) * batch]] = True
        return is_in

    replace(PrivateStep, "included", included)


def sample_rate_off_by_two(replace: Replace) -> None:
    def doubled(key, *, sample_rate, **settings):
        return draw_inclusion(key, sample_rate=min(1.0, 2 * sample_rate), **settings)

    replace(step_module, "draw_inclusion", doubled)


BUGS: dict[str, Callable[[Replace], None]] = {
    plant.__name__: plant
    for plant in (
        noise_on_every_rank_then_averaged,
        same_noise_generator_on_all_ranks,
        same_sampling_generator_on_all_ranks,
        empty_batches_dropped,
        empty_local_batches_dropped,
        mean_over_the_actual_batch,
        released_mean_over_the_actual_batch,
        normaliser_from_len_dataset,
        draws_clipped_as_separate_records,
        clipping_per_layer,
        nan_record_poisons_the_sum,
        noise_key_reused_after_a_restart,
        ledger_restored_from_a_checkpoint,
        shuffling_in_place_of_poisson,
        sample_rate_off_by_two,
    )
}


def positions_as_addresses(replace: Replace) -> None:
    """Public draws find a record by its place among those that its worker holds."""
    replace(private_inputs, "content_addresses", lambda image: np.arange(len(image), dtype=np.uint64))


def labels_from_the_listing(replace: Replace) -> None:
    """Classes are numbered by the folders that exist, whatever was stated."""

    def listed(store, folders, class_names, reading, *, is_private):
        units, _ = list_class_units(store, folders, None, reading, is_private=is_private)
        return units, class_names

    replace(sources, "list_class_units", listed)


def image_shape_from_the_first_file(replace: Replace) -> None:
    """Every image is cut to the size of the first one of its unit before it is brought to the stated one."""

    def decoded(unit, **settings):
        first = None

        def read(name, payload, image_size, num_channels, reading):
            nonlocal first
            pixels = decode_one(name, payload, None, num_channels, reading)
            first = first or pixels.shape[1]
            return to_pixels(pixels[:, :first, :first], image_size=image_size, num_channels=num_channels)

        with swapped(decode, "_decode_one", read):
            return decode_unit(unit, **settings)

    decode_one, decode_unit = decode._decode_one, decode.decode_unit
    replace(dataset, "decode_unit", decoded)


@contextlib.contextmanager
def swapped(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def normaliser_from_the_data(replace: Replace) -> None:
    """Latents are centred and scaled by the private records' own mean and spread (LDM's scale_by_std)."""
    encode = private_inputs.encode_pixels

    def scaled(autoencoder, image, **settings):
        latent = encode(autoencoder, image, **settings)
        return (latent - latent.mean()) / latent.std()

    replace(private_inputs, "encode_pixels", scaled)


def parts_taken_as_a_source(replace: Replace) -> None:
    """Nobody asks where Parquet files come from."""
    replace(sources, "refuse_artefact", lambda store: None)
    replace(parquet_source, "refuse_own_table", lambda uri, metadata: None)


def statistics_over_the_realised_class_size(replace: Replace) -> None:
    """Sums become means over the records that a class has, times a public number of records."""

    def means(vectors, label, terms):
        sums = sum_statistics(vectors, label, terms)
        count = sums[:, :1] / terms.weights[0]
        sums[:, 1:] *= 10 / np.maximum(count, 1)
        return sums

    replace(private_run, "sum_statistics", means)


def statistics_clipped_after_the_sum(replace: Replace) -> None:
    """Vectors are summed as they are, and the sum of a class is scaled to what its clipped records could reach."""

    def clipped_sums(vectors, label, terms):
        wide = dataclasses.replace(terms, clip_norm=1e6)
        sums = sum_statistics(vectors, label, wide) * (1e6 / terms.clip_norm)
        counts = sum_statistics(vectors, label, terms)[:, :1] / terms.weights[0]
        norms = np.linalg.norm(sums[:, 1 : 1 + terms.dim], axis=1, keepdims=True)
        return sums * np.minimum(1, counts / np.maximum(norms, 1e-12))

    replace(private_run, "sum_statistics", clipped_sums)


def second_moment_unclipped(replace: Replace) -> None:
    """Counts and means are of clipped vectors, second moments of the vectors as they are."""

    def sums_of(vectors, label, terms):
        sums = sum_statistics(vectors, label, terms)
        wide = dataclasses.replace(terms, clip_norm=1e6)
        sums[:, 1 + terms.dim :] = (
            sum_statistics(vectors, label, wide)[:, 1 + terms.dim :] * (1e6 / terms.clip_norm) ** 2
        )
        return sums

    replace(private_run, "sum_statistics", sums_of)


def classes_parted_at_the_realised_median(replace: Replace) -> None:
    """A class is halved at the median of its own records instead of at 0."""
    blocks = statistics._blocks

    def moved(vectors, label, terms):
        centre = np.stack([np.median(vectors[label == k], axis=0) for k in label]) if len(label) else 0.0
        return blocks(vectors - centre, label, terms)

    replace(statistics, "_blocks", moved)


SOURCE_BUGS: dict[str, Callable[[Replace], None]] = {
    bug.__name__: bug
    for bug in (
        positions_as_addresses,
        labels_from_the_listing,
        image_shape_from_the_first_file,
        normaliser_from_the_data,
        parts_taken_as_a_source,
        statistics_over_the_realised_class_size,
        statistics_clipped_after_the_sum,
        second_moment_unclipped,
        classes_parted_at_the_realised_median,
    )
}
