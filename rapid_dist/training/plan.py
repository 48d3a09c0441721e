"""From a run's spec to its privacy plan, and to all that private training needs to know besides its records.

A plan is built for networks only whose examples do not mix: they are tried out on made-up rows before anything runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.errors import SpecError
from rapid_dist.models import denoisers
from rapid_dist.models.autoencoder import build_autoencoder
from rapid_dist.models.denoisers import build_denoiser, one_hot_condition
from rapid_dist.privacy.calibration import calibrate_noise_multiplier
from rapid_dist.privacy.clipping import AUTO
from rapid_dist.privacy.network import check_network
from rapid_dist.privacy.plan import PrivacyPlan, calibrated_plan
from rapid_dist.privacy.statistics import ClassGaussians, StatisticsTerms, affordable_halvings, fit_gaussians
from rapid_dist.seeding import make_generator
from rapid_dist.specs import AutoencoderSpec, DenoiserSpec, RunSpec, ScheduleSpec, TrainingSpec

# Made-up rows of a trial. With three, a network that pairs rows up, or looks at the next one, mixes the first or last.
_ROWS = 3
# Sides of images whose size is not stated; a network of L levels needs 2^L pixels.
_SIDE, _MOST_SIDE = 32, 64


@dataclass(frozen=True, kw_only=True)
class PrivateRun:
    """The public constants of private training, the same on every worker.

    alphas_cumprod: (num_train_timesteps,) float64, on the device. num_conditions: width of the one-hot condition.
    max_physical_batch_size: examples times draws in memory at once; it changes no result. clipping_engine: as
    runtime.clipping_engine. device: where the model is.
    """

    plan: PrivacyPlan
    training: TrainingSpec
    schedule: ScheduleSpec
    alphas_cumprod: torch.Tensor
    num_conditions: int
    max_physical_batch_size: int
    clipping_engine: str = AUTO
    device: str = "cpu"


def private_run(spec: RunSpec, plan: PrivacyPlan, alphas_cumprod: torch.Tensor, *, device: str) -> PrivateRun:
    """Returns the constants of a run's private training."""
    return PrivateRun(
        plan=plan,
        training=spec.training,
        schedule=spec.schedule,
        alphas_cumprod=alphas_cumprod,
        num_conditions=spec.data.num_classes,
        max_physical_batch_size=spec.runtime.max_physical_batch_size,
        clipping_engine=spec.runtime.clipping_engine,
        device=device,
    )


def statistics_terms(
    spec: RunSpec, latent_shape: tuple[int, ...], noise_multiplier: float | None = None
) -> StatisticsTerms:
    """Returns the public constants of a run's release of class statistics, for flattened latents.

    Args:
        noise_multiplier: Of the release, by which statistics.halvings is chosen where the spec leaves it open; None
            halves nothing then.
    """
    section, dim, classes = spec.statistics, math.prod(latent_shape), max(1, spec.data.num_classes)
    terms = StatisticsTerms(
        num_classes=classes,
        dim=dim,
        clip_norm=section.clip_norm or math.sqrt(dim),
        count_share=section.count_share,
        mean_share=section.mean_share,
        halvings=section.halvings or 0,
    )
    if section.halvings is not None or noise_multiplier is None:
        return terms
    records = spec.privacy.nominal_size / classes
    halvings = affordable_halvings(terms, noise_multiplier=noise_multiplier, records_per_class=records)
    return replace(terms, halvings=halvings)


def fitted_statistics(
    spec: RunSpec,
    noisy: np.ndarray | None,
    latent_shape: tuple[int, ...],
    noise_multiplier: float | None,
    *,
    spread: float = 1.0,
) -> ClassGaussians | None:
    """Returns a Gaussian for each class, fitted to the released statistics; None where none were released."""
    if not spec.releases_statistics or noisy is None or noise_multiplier is None:
        return None
    terms = statistics_terms(spec, latent_shape, noise_multiplier)
    return fit_gaussians(noisy, terms, noise_multiplier=noise_multiplier, spread=spread)


def statistics_noise(spec: RunSpec) -> float | None:
    """Returns the noise multiplier of the class statistics as far as the spec says it, a public constant.

    It is the stated one; or, where a model is trained too, the least whose release alone costs
    statistics.epsilon_share of the target. None where nothing is released, or where the release has the whole target.
    """
    section, privacy = spec.statistics, spec.privacy
    if not spec.releases_statistics or section.noise_multiplier is not None or spec.training.steps == 0:
        return section.noise_multiplier
    return _noise_of_share(privacy.target_epsilon * section.epsilon_share, privacy.target_delta)


@functools.cache  # plans of one spec are built many times
def _noise_of_share(epsilon: float, delta: float) -> float:
    return calibrate_noise_multiplier(target_epsilon=epsilon, delta=delta, sample_rate=1.0, num_steps=1)


def build_plan(spec: RunSpec) -> PrivacyPlan:
    """Returns the plan of a run, its noise calibrated so that all releases, steps and spare steps fit the target.

    Noise that the spec states is taken as it is.

    Raises:
        SpecError: The stated noise, or the votes alone, exceed the target; or the denoiser cannot be trained privately,
            see check_denoiser.
    """
    check_denoiser(spec)
    privacy = spec.privacy
    return calibrated_plan(
        target_epsilon=privacy.target_epsilon,
        target_delta=privacy.target_delta,
        neighboring_relation=privacy.neighboring_relation,
        unit=privacy.unit,
        sample_rate=privacy.sample_rate,
        expected_batch_size=privacy.expected_batch_size,
        max_grad_norm=privacy.max_grad_norm,
        noise_multiplier=privacy.noise_multiplier,
        steps=spec.training.steps,
        spare_steps=privacy.spare_steps,
        votes_noise_multiplier=privacy.votes_noise_multiplier,
        statistics_noise_multiplier=statistics_noise(spec),
        is_private=privacy.debug_fixed_key is None,
    )


def check_denoiser(spec: RunSpec) -> None:
    """Tries out the spec's denoiser, with new weights and made-up rows; nothing is read.

    Raises:
        SpecError: The denoiser mixes examples, so that clipping would not bound one, or runtime.clipping_engine cannot
            take it; or it cannot be built for images of this size.
    """
    side = spec.data.image_size or min(_MOST_SIDE, max(_SIDE, 2**spec.denoiser.num_blocks))
    _check_denoiser(
        denoisers.DENOISERS[spec.denoiser.kind],
        spec.denoiser,
        spec.autoencoder,
        image_shape=(spec.data.num_channels or 1, side, side),
        num_conditions=spec.data.num_classes,
        num_timesteps=spec.schedule.num_train_timesteps,
        engine=spec.runtime.clipping_engine,
    )


@functools.cache  # plans of one spec are built many times
def _check_denoiser(
    network: Callable[..., torch.nn.Module],
    denoiser: DenoiserSpec,
    autoencoder: AutoencoderSpec,
    *,
    image_shape: tuple[int, int, int],
    num_conditions: int,
    num_timesteps: int,
    engine: str,
) -> None:
    """network: what the table of denoisers has under the spec's kind; the cache holds for that one."""
    generator = make_generator(0, "check-denoiser")
    shape = build_autoencoder(autoencoder, image_shape=image_shape, generator=generator).latent_shape
    model = build_denoiser(denoiser, latent_shape=shape, num_conditions=num_conditions, generator=generator)
    rows = torch.arange(_ROWS)
    x_t, noise = (torch.randn((_ROWS, *shape), generator=generator) for _ in range(2))
    label = rows % num_conditions if num_conditions else torch.full_like(rows, -1)
    examples = (x_t, noise, rows * num_timesteps // _ROWS, one_hot_condition(label, num_conditions))
    try:
        check_network(denoising_loss, model, examples, engine=engine)
    except SpecError as error:
        raise SpecError(f"denoiser.kind {denoiser.kind!r} with runtime.clipping_engine {engine!r}: {error}") from None
