"""A tiny trained-looking run to sample from: random public and private models over 4x4 images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard
from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.models.public import PublicModels, build_public_models
from rapid_dist.seeding import make_generator
from rapid_dist.specs import DataSpec, DenoiserSpec, ExtractorSpec, PrivacySpec, RunSpec, SamplingSpec, ScheduleSpec

SHAPE, NUM_CLASSES, NUM_PUBLIC, NUM_PROTOTYPES, NUM_ROWS = (1, 4, 4), 3, 4, 5, 120
LABEL_MAP = {0: 0, 1: 1, 2: 2, 3: 2}
SPEC = RunSpec(
    data=DataSpec(private="p", public="q", num_classes=NUM_CLASSES),
    privacy=PrivacySpec(target_epsilon=1.0, target_delta=1e-4, sample_rate=0.1, nominal_size=100),
    denoiser=DenoiserSpec(width=16, num_blocks=1, embedding_dim=8),
    extractor=ExtractorSpec(feature_dim=4, width=8),
    schedule=ScheduleSpec(num_train_timesteps=50, split_step=30, query_step=40),
    sampling=SamplingSpec(num_samples=20, num_steps=20),
)


def spec_with(*, label_map: dict[int, int] | None = None, schedule: dict | None = None, **sampling) -> RunSpec:
    return replace(
        SPEC,
        sampling=replace(SPEC.sampling, **sampling),
        schedule=replace(SPEC.schedule, **(schedule or {})),
        knowledge_base=replace(SPEC.knowledge_base, label_map=label_map or {}),
    )


def moved(module: nn.Module, seed: int) -> nn.Module:
    """Small random changes, so that zero-initialised layers take part."""
    generator = make_generator(seed, "moved")
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return module.eval().requires_grad_(False)


def make_models() -> PublicModels:
    models = build_public_models(SPEC, image_shape=SHAPE, num_public_classes=NUM_PUBLIC)
    moved(models.denoiser, 1)
    moved(models.extractor, 2)
    return models


def make_private_denoiser() -> nn.Module:
    model = build_denoiser(
        SPEC.denoiser, latent_shape=SHAPE, num_conditions=NUM_CLASSES, generator=make_generator(0, "private")
    )
    return moved(model, 3)


def make_search() -> KnowledgeBaseSearch:
    """Random values, but for the first pixel: that is a thousandth of the trajectory's id (ids_of_values)."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(NUM_ROWS, 4)).astype("f4")
    ids = np.arange(NUM_ROWS)
    values = rng.normal(0, 0.5, size=(NUM_ROWS, *SHAPE)).astype("f2")
    values[:, 0, 0, 0] = ids / 1000
    shards = [
        OpenShard(
            keys=keys[rows],
            trajectory_id=ids[rows],
            label=(ids[rows] % NUM_PUBLIC).astype("i4"),
            prototype=(ids[rows] // 3 % NUM_PROTOTYPES).astype("i4"),
            value=values[rows],
        )
        for rows in np.array_split(ids, 2)
    ]
    return KnowledgeBaseSearch(shards, space="cosine", method="exact")


def ids_of_values(values: torch.Tensor) -> np.ndarray:
    """The trajectories that values (n, *SHAPE) belong to."""
    return (values[:, 0, 0, 0].numpy() * 1000).round().astype(int)


class Counted(nn.Module):
    """A denoiser that counts the images it was evaluated on, and the timesteps."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.evaluations, self.timesteps = inner, 0, []

    def forward(self, x_t, timestep, condition):
        self.evaluations += len(x_t)
        self.timesteps.append(int(timestep[0]))
        return self.inner(x_t, timestep, condition)
