"""Public training: augmentation, the loop over workers, and the models trained on public images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from rapid_dist.diffusion.process import add_noise, denoising_loss, estimate_x0
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.metrics.steps import StepMeter, silent_meter
from rapid_dist.models.autoencoder import to_unit_range
from rapid_dist.models.denoisers import one_hot_condition
from rapid_dist.models.extractor import Extractor, contrastive_loss
from rapid_dist.seeding import make_generator
from rapid_dist.specs import RunSpec
from rapid_dist.training.collective import Collective
from rapid_dist.training.state import CheckpointFolder, TrainState

# The most noise, in a latent's own units, that a decoder of components learns to look through. With 0.5 it smoothed
# away the variety of draws of class statistics, from which a classifier then learnt less.
_MOST_LATENT_NOISE = 0.3


def random_affine(image: torch.Tensor, generator: torch.Generator, *, strength: float = 1.0) -> torch.Tensor:
    """Rotates up to 15 degrees, shears up to 0.3, scales by 0.85 to 1.15 and shifts up to 6%, each times strength.

    image: (B, C, H, W) float in [0, 1]; the border value is repeated. Public images only.
    """
    size = len(image)

    def draw(limit: float) -> torch.Tensor:
        return (torch.rand(size, generator=generator) * 2 - 1) * limit * strength

    angle, shear = draw(15 * torch.pi / 180), draw(0.3)
    scale_x, scale_y = 1 + draw(0.15), 1 + draw(0.15)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack(
        [
            torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, draw(0.12)], dim=1),
            torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, draw(0.12)], dim=1),
        ],
        dim=1,
    ).to(image.device)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def train_publicly(
    state: TrainState,
    loss_fn: Callable[[int], torch.Tensor],
    *,
    steps: int,
    collective: Collective,
    checkpoints: CheckpointFolder,
    checkpoint_every: int = 500,
    on_step: Callable[[int], None] = lambda step: None,
    meter: StepMeter | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Runs from state.step to steps; loss_fn(step) is this worker's mean loss at that step.

    The learning rate follows a half cosine to zero. Resumes from the newest checkpoint by itself; rank 0 writes, with
    the notes in each one's header.
    """
    saved = checkpoints.latest()
    if saved is not None:
        state.load_bytes(saved)
    meter = meter or silent_meter()
    meter.begin(state.step)
    parameters = list(state.model.parameters())
    while state.step < steps:
        with meter.phase("gradient"):
            loss = loss_fn(state.step)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        with meter.phase("all_reduce"):
            flat = collective.sum(torch.cat([g.reshape(-1) for g in parts])) / collective.world_size
        with meter.phase("update"):
            state.set_gradients(flat)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            state.apply(learning_rate_factor=0.5 * (1 + torch.cos(torch.tensor(torch.pi * state.step / steps)).item()))
        on_step(state.step)
        if collective.rank == 0 and (state.step % checkpoint_every == 0 or state.step == steps):
            with meter.phase("checkpoint"):
                checkpoints.save(state, notes)
        meter.step_done(state.step)
    meter.close()


OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class PublicPartition:
    """The public images one worker holds. image: (n, C, H, W) uint8; label: (n,) int64, -1 for none."""

    image: torch.Tensor
    label: torch.Tensor


class PublicTrainer:
    """Runs the public phases over a group of workers; the same call resumes each phase from its checkpoints."""

    def __init__(
        self,
        spec: RunSpec,
        partition: PublicPartition,
        *,
        collective: Collective,
        checkpoints: Callable[[str], CheckpointFolder],
        device: str = "cpu",
        on_step: OnStep = lambda phase, step, steps: None,
        recorder: Recorder | None = None,
    ):
        self.spec, self.partition, self.collective = spec, partition, collective
        self.checkpoints, self.device, self.on_step = checkpoints, device, on_step
        self.recorder = recorder or Recorder()

    def _generator(self, phase: str, step: int) -> torch.Generator:
        return make_generator(self.spec.pretrain.seed, phase, step, self.collective.rank)

    def _batch(
        self, generator: torch.Generator, batch_size: int, *, is_moved: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """This worker's share of a batch: images (b, C, H, W) in [0, 1] and labels (b,).

        is_moved: False leaves the images as they are, whatever pretrain.augment says.
        """
        share = max(2, batch_size // self.collective.world_size)
        index = torch.randint(len(self.partition.label), (share,), generator=generator)
        image = to_unit_range(self.partition.image[index])
        if is_moved and self.spec.pretrain.augment:
            image = random_affine(image, generator)
        return image.to(self.device), self.partition.label[index].to(self.device)

    def _noise_like(self, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator).to(self.device)

    def _run(self, phase: str, model, loss_fn, section, *, ema_decay: float) -> TrainState:
        """section: of the spec, with steps, learning_rate and batch_size."""
        steps = section.steps
        state = TrainState(model, learning_rate=section.learning_rate, ema_decay=ema_decay)
        train_publicly(
            state,
            loss_fn,
            steps=steps,
            collective=self.collective,
            checkpoints=self.checkpoints(phase),
            on_step=lambda step: self.on_step(phase, step, steps),
            meter=StepMeter(self.recorder, loop=phase, planned_steps=steps, expected_batch_size=section.batch_size),
        )
        model.load_state_dict(state.averaged_weights())
        return state

    def train_autoencoder(self, autoencoder) -> None:
        """Trains in place and sets the latent statistics from public images; the identity needs nothing."""
        section = self.spec.autoencoder
        if section.kind == "identity":
            return
        if section.kind == "pca":
            self._fit_components(autoencoder)
            if section.steps == 0:
                return

        def loss(step: int) -> torch.Tensor:
            generator = self._generator("autoencoder", step)
            # The components are those of the images as they are. A decoder trained on moved ones as well was worse for
            # draws in the components: 95.1% instead of 96.3% on MNIST at epsilon 1.
            image, _ = self._batch(generator, section.batch_size, is_moved=section.kind == "conv")
            noise = self._noise_like(torch.empty(len(image), *autoencoder.latent_shape), generator)
            if section.kind == "conv":
                return autoencoder.reconstruction_loss(image, noise)
            scale = torch.rand((len(image), 1), generator=generator).to(self.device) * _MOST_LATENT_NOISE
            return autoencoder.reconstruction_loss(image, noise, scale)

        self._run("autoencoder", autoencoder, loss, section, ema_decay=self.spec.pretrain.ema_decay)
        if section.kind == "conv":
            self._set_latent_statistics(autoencoder)

    @torch.no_grad()
    def _fit_components(self, autoencoder) -> None:
        """Sums first and second moments of the pixels over all workers; every worker then finds the same components."""
        pixels = self.partition.image[:1].numel()
        sums = torch.zeros(pixels + 1, pixels + 1, dtype=torch.float64, device=self.device)
        for image in self.partition.image.split(2048):
            flat = to_unit_range(image).to(self.device).flatten(1).double()
            with_one = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1)  # the count and the mean come along
            sums += with_one.T @ with_one
        sums = self.collective.sum(sums.flatten()).reshape(sums.shape)
        mean = sums[-1, :-1] / sums[-1, -1]
        autoencoder.set_components(mean, sums[:-1, :-1] / sums[-1, -1] - torch.outer(mean, mean))

    @torch.no_grad()
    def _set_latent_statistics(self, autoencoder) -> None:
        total = torch.zeros(2, autoencoder.latent_shape[0], dtype=torch.float64, device=self.device)
        count = torch.tensor([float(len(self.partition.label))], dtype=torch.float64, device=self.device)
        for image in self.partition.image.split(2048):
            raw = autoencoder.encode_raw(to_unit_range(image).to(self.device)).double()
            total += torch.stack([raw.sum(0), raw.square().sum(0)])
        total, count = self.collective.sum(total), self.collective.sum(count)
        mean = total[0] / count
        autoencoder.mean.copy_(mean.float())
        autoencoder.std.copy_((total[1] / count - mean.square()).clamp(min=1e-6).sqrt().float())

    def train_denoiser(self, denoiser, autoencoder, alphas_cumprod: torch.Tensor, num_conditions: int) -> None:
        """Trains in place over all timesteps (DDPM, Eq. 14), with label dropout for guidance."""
        section = self.spec.pretrain

        def loss(step: int) -> torch.Tensor:
            generator = self._generator("denoiser", step)
            image, label = self._batch(generator, section.batch_size)
            with torch.no_grad():
                latent = autoencoder.encode(image)
            dropped = torch.rand(len(label), generator=generator) < section.label_dropout
            label = torch.where(dropped.to(self.device), torch.full_like(label, -1), label)
            timestep = torch.randint(len(alphas_cumprod), (len(label),), generator=generator).to(self.device)
            noise = self._noise_like(latent, generator)
            x_t = add_noise(latent, timestep, noise, alphas_cumprod)
            return denoising_loss(denoiser, x_t, noise, timestep, one_hot_condition(label, num_conditions)).mean()

        self._run("denoiser", denoiser, loss, section, ema_decay=section.ema_decay)

    def train_extractor(
        self, extractor: Extractor, denoiser, autoencoder, alphas_cumprod: torch.Tensor, num_conditions: int
    ) -> None:
        """Trains in place: two augmented views, each noised to query_step and estimated by the public model, agree."""
        section, query_step = self.spec.extractor, self.spec.schedule.query_step

        @torch.no_grad()
        def estimate(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            latent = autoencoder.encode(image)
            timestep = torch.full((len(latent),), query_step, dtype=torch.int64, device=self.device)
            x_t = add_noise(latent, timestep, self._noise_like(latent, generator), alphas_cumprod)
            predicted = denoiser(x_t, timestep, torch.zeros(len(latent), num_conditions, device=self.device))
            return estimate_x0(x_t, timestep, predicted, alphas_cumprod)

        def loss(step: int) -> torch.Tensor:
            generator = self._generator("extractor", step)
            image, _ = self._batch(generator, section.batch_size)
            views = [random_affine(image.cpu(), generator, strength=0.5).to(self.device) for _ in range(2)]
            first, second = (extractor.projected(estimate(view, generator)) for view in views)
            return contrastive_loss(first, second, section.temperature)

        self._run("extractor", extractor, loss, section, ema_decay=self.spec.pretrain.ema_decay)


def partition_from_arrays(image: np.ndarray, label: np.ndarray) -> PublicPartition:
    """image (n, C, H, W) uint8 and label (n,) int as a partition."""
    return PublicPartition(image=torch.from_numpy(image), label=torch.from_numpy(label.astype(np.int64)))
