"""The public phases on tiny random images: each learns, and the latent statistics are those of the public set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_dist.models.public import build_public_models, encode_pixels
from rapid_dist.privacy.plan import OneWorker
from rapid_dist.specs import (
    AutoencoderSpec,
    DataSpec,
    DenoiserSpec,
    ExtractorSpec,
    PretrainSpec,
    PrivacySpec,
    RunSpec,
    ScheduleSpec,
)
from rapid_dist.storage.store import Store
from rapid_dist.training import public as pretrain
from rapid_dist.training import public as public_loop
from rapid_dist.training.public import PublicTrainer, partition_from_arrays
from rapid_dist.training.state import CheckpointFolder
from tests.training.helpers import returned, run_workers

SHAPE, NUM_LABELS = (1, 8, 8), 2
SPEC = RunSpec(
    data=DataSpec(private="p", public="q"),
    privacy=PrivacySpec(target_epsilon=1.0, target_delta=1e-4, sample_rate=0.1, nominal_size=100),
    autoencoder=AutoencoderSpec(kind="conv", latent_dim=4, width=4, steps=40, batch_size=32, learning_rate=1e-2),
    denoiser=DenoiserSpec(width=24, num_blocks=1, embedding_dim=8),
    schedule=ScheduleSpec(num_train_timesteps=50, split_step=30, query_step=40),
    pretrain=PretrainSpec(steps=60, batch_size=32, learning_rate=3e-3, ema_decay=0.9),
    extractor=ExtractorSpec(feature_dim=4, width=16, steps=40, batch_size=32, learning_rate=1e-2),
)


def make_images(n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Bright halves in noise: the label tells which half."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % NUM_LABELS
    image = rng.integers(0, 60, (n, *SHAPE))
    for i in range(n):
        image[i, :, :, 4 * label[i] : 4 * label[i] + 4] += 150
    return image.astype(np.uint8), label


def train_all(path, *, spec=SPEC, collective=None, rows=slice(None), seen=None):
    """Runs the three phases; seen (phase -> list) collects the steps taken."""
    collective, seen = collective or OneWorker(), {} if seen is None else seen
    image, label = make_images()
    models = build_public_models(spec, image_shape=SHAPE, num_public_classes=NUM_LABELS)
    trainer = PublicTrainer(
        spec,
        partition_from_arrays(image[rows], label[rows]),
        collective=collective,
        checkpoints=lambda phase: CheckpointFolder(Store(path / phase)),
        on_step=lambda phase, step, steps: seen.setdefault(phase, []).append(step),
    )
    trainer.train_autoencoder(models.autoencoder)
    trainer.train_denoiser(models.denoiser, models.autoencoder, models.alphas_cumprod, NUM_LABELS)
    trainer.train_extractor(models.extractor, models.denoiser, models.autoencoder, models.alphas_cumprod, NUM_LABELS)
    return models


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Models after all phases, the loss of every step by phase, and where the checkpoints lie."""
    path, losses = tmp_path_factory.mktemp("pretrain"), {}
    original = public_loop.train_publicly

    def recording(state, loss_fn, *, checkpoints, **kwargs):
        phase = checkpoints.store.uri.rsplit("/", 1)[-1]

        def loss(step):
            value = loss_fn(step)
            losses.setdefault(phase, []).append(value.item())
            return value

        original(state, loss, checkpoints=checkpoints, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "train_publicly", recording)
        models = train_all(path)
    return models, losses, path


@pytest.mark.parametrize(("phase", "drop"), [("autoencoder", 0.9), ("denoiser", 0.9), ("extractor", 0.95)])
def test_each_phase_learns(trained, phase, drop):
    losses = trained[1][phase]
    assert np.mean(losses[-10:]) < drop * np.mean(losses[:5])


def test_latents_of_the_public_set_have_mean_zero_and_deviation_one(trained):
    image = torch.from_numpy(make_images()[0])
    latent = encode_pixels(trained[0].autoencoder, image, device="cpu").double()
    assert latent.mean(0).abs().max() < 1e-3
    assert (latent.std(0, unbiased=False) - 1).abs().max() < 1e-3


def test_all_phases_resume_to_the_very_same_models(trained):
    models, _, path = trained
    seen = {}
    again = train_all(path, seen=seen)
    assert seen == {}
    for name in ("autoencoder", "denoiser", "extractor"):
        for (key, a), b in zip(
            getattr(models, name).state_dict().items(), getattr(again, name).state_dict().values(), strict=True
        ):
            assert torch.equal(a, b), key


def test_two_workers_end_with_one_model_and_statistics_of_both_their_parts(tmp_path):
    spec = replace(
        SPEC,
        autoencoder=replace(SPEC.autoencoder, steps=15),
        pretrain=replace(SPEC.pretrain, steps=3),
        extractor=replace(SPEC.extractor, steps=3),
    )
    first, second = returned(
        run_workers(2, lambda c: train_all(tmp_path, spec=spec, collective=c, rows=slice(c.rank, None, 2)))
    )
    for name in ("autoencoder", "denoiser", "extractor"):
        for a, b in zip(getattr(first, name).parameters(), getattr(second, name).parameters(), strict=True):
            assert torch.equal(a, b)
    latent = encode_pixels(first.autoencoder, torch.from_numpy(make_images()[0]), device="cpu").double()
    assert latent.mean(0).abs().max() < 1e-3
    assert (latent.std(0, unbiased=False) - 1).abs().max() < 1e-3


def test_the_identity_autoencoder_trains_nothing(tmp_path):
    spec = replace(SPEC, autoencoder=AutoencoderSpec(kind="identity"))
    models = build_public_models(spec, image_shape=SHAPE, num_public_classes=NUM_LABELS)
    PublicTrainer(
        spec,
        partition_from_arrays(*make_images()),
        collective=OneWorker(),
        checkpoints=lambda phase: CheckpointFolder(Store(tmp_path / phase)),
    ).train_autoencoder(models.autoencoder)
    assert list(tmp_path.iterdir()) == []
