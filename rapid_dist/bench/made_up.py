"""Private training without data: random latents of a spec's shapes, and the model that would train on them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from rapid_dist.diffusion.process import make_alphas_cumprod
from rapid_dist.metrics.steps import PrivateStepMeter
from rapid_dist.models.autoencoder import build_autoencoder
from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.seeding import make_generator
from rapid_dist.specs import RunSpec
from rapid_dist.storage.store import Store
from rapid_dist.training.collective import Collective
from rapid_dist.training.plan import private_run
from rapid_dist.training.private import Book, PrivateAttempt, open_attempt, train_attempt
from rapid_dist.training.private_data import PrivatePartition
from rapid_dist.training.state import CheckpointFolder

JOB = "bench"


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """A model before its first step and privacy.nominal_size made-up records, the same wherever they are made."""

    model: torch.nn.Module
    partition: PrivatePartition
    alphas_cumprod: torch.Tensor

    def part(self, rank: int, world_size: int) -> PrivatePartition:
        """The records that a worker of a group holds, as read_all_images deals them."""
        p, mine = self.partition, slice(rank, None, world_size)
        return PrivatePartition(
            example_id=p.example_id[mine],
            address=p.address[mine],
            latent=p.latent[mine],
            label=p.label[mine],
            surrogate=None if p.surrogate is None else p.surrogate[mine],
        )

    def train(
        self,
        spec: RunSpec,
        plan: PrivacyPlan,
        *,
        ledger: Book,
        workers: Collective,
        folder: Store,
        steps: int,
        checkpoint_every: int,
        meter: PrivateStepMeter,
        statement_fn: Callable[[], str] = str,
    ) -> PrivateAttempt:
        """Trains a copy of the model as one attempt of private training, on this worker's part of the records."""
        attempt = open_attempt(
            plan,
            ledger=ledger,
            job=JOB,
            debug_fixed_key=spec.privacy.debug_fixed_key,
            statement_fn=statement_fn,
            collective=workers,
        )
        training = replace(spec.training, steps=steps, checkpoint_every=checkpoint_every)
        train_attempt(
            copy.deepcopy(self.model),
            self.part(workers.rank, workers.world_size),
            private_run(replace(spec, training=training), plan, self.alphas_cumprod, device="cpu"),
            attempt=attempt,
            collective=workers,
            checkpoints=CheckpointFolder(folder),
            watch=lambda state: lambda step: None,
            meter=meter,
        )
        return attempt


def make_up(spec: RunSpec) -> MadeUp:
    """Returns made-up records and a model of the spec's shapes. No data is read, so there is nothing private in it."""
    generator = make_generator(0, "bench-privacy")
    size, channels = spec.data.image_size or 28, spec.data.num_channels or 1
    shape = build_autoencoder(spec.autoencoder, image_shape=(channels, size, size), generator=generator).latent_shape
    model = build_denoiser(spec.denoiser, latent_shape=shape, num_conditions=spec.data.num_classes, generator=generator)
    count, classes = spec.privacy.nominal_size, spec.data.num_classes
    label = torch.randint(classes, (count,), generator=generator) if classes else torch.full((count,), -1)
    needs_surrogate = spec.training.objective == "surrogate"
    partition = PrivatePartition(
        example_id=np.arange(count, dtype=np.int64),
        address=np.arange(count, dtype=np.uint64),
        latent=torch.randn((count, *shape), generator=generator),
        label=label,
        surrogate=torch.randn((count, *shape), generator=generator) if needs_surrogate else None,
    )
    return MadeUp(model=model, partition=partition, alphas_cumprod=make_alphas_cumprod(spec.schedule))
