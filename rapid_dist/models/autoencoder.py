"""From images to latents and back; latents are standardised by public statistics so that the noise fits them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from rapid_dist.models.denoisers import init_parameters, zero_init
from rapid_dist.specs import AutoencoderSpec


class IdentityAutoencoder(nn.Module):
    """Latents are the pixels themselves, in [-1, 1]; nothing to train."""

    def __init__(self, spec: AutoencoderSpec, *, image_shape: tuple[int, int, int], generator: torch.Generator):
        super().__init__()
        self.latent_shape: tuple[int, ...] = tuple(image_shape)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> latent of the same shape in [-1, 1]."""
        return image * 2 - 1

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return ((latent + 1) / 2).clamp(0, 1)


class ConvAutoencoder(nn.Module):
    """A convolutional encoder to a flat latent and an MLP decoder, trained on public images only.

    `mean` and `std` (latent_dim,) are statistics of public latents: encode standardises, decode undoes it.
    """

    def __init__(self, spec: AutoencoderSpec, *, image_shape: tuple[int, int, int], generator: torch.Generator):
        super().__init__()
        channels, height, width = self.image_shape = tuple(image_shape)
        self.latent_shape = (spec.latent_dim,)
        levels = [spec.width, spec.width * 2, spec.width * 2]
        self.convolutions = nn.ModuleList()
        for i, o in zip([channels, *levels[:-1]], levels, strict=True):
            self.convolutions.append(nn.Conv2d(i, o, 3, stride=2, padding=1))
            height, width = (height + 1) // 2, (width + 1) // 2
        self.to_latent = nn.Linear(levels[-1] * height * width, spec.latent_dim)
        hidden = spec.width * 16
        self.decoder = nn.Sequential(
            nn.Linear(spec.latent_dim, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, channels * image_shape[1] * image_shape[2]),
        )
        self.register_buffer("mean", torch.zeros(spec.latent_dim))
        self.register_buffer("std", torch.ones(spec.latent_dim))
        init_parameters(self, generator)

    def encode_raw(self, image: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> unstandardised latent (B, latent_dim)."""
        h = image * 2 - 1
        for convolution in self.convolutions:
            h = F.silu(convolution(h))
        return self.to_latent(h.flatten(1))

    def decode_raw(self, latent: torch.Tensor) -> torch.Tensor:
        """Unstandardised latent -> pixel logits (B, C, H, W)."""
        return self.decoder(latent).reshape(-1, *self.image_shape)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return (self.encode_raw(image) - self.mean) / self.std

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Standardised latent -> image in [0, 1]."""
        return torch.sigmoid(self.decode_raw(latent * self.std + self.mean))

    def reconstruction_loss(self, image: torch.Tensor, noise: torch.Tensor, noise_scale: float = 0.05) -> torch.Tensor:
        """Mean binary cross-entropy of the pixels, with a little latent noise so that the latent space is smooth,
        and a weak pull of latents to unit scale."""
        raw = self.encode_raw(image)
        logits = self.decode_raw(raw + noise_scale * noise)
        return F.binary_cross_entropy_with_logits(logits, image) + 1e-4 * raw.square().mean()


class Restorer(nn.Module):
    """A convolutional network that gives an image back the detail that few components leave out.

    It works on blocks of 2 x 2 pixels (pixel unshuffle, Shi et al. 2016), at a quarter of the price. Before training it
    only steepens the contrast.
    """

    def __init__(self, *, num_channels: int, width: int, generator: torch.Generator):
        super().__init__()
        blocks = 4 * num_channels
        self.into = nn.Conv2d(blocks, width, 5, padding=2)
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.out = nn.Conv2d(width, blocks, 3, padding=1)
        init_parameters(self, generator)
        zero_init(self.out)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W) about [0, 1] -> pixel logits of the same shape."""
        height, width = image.shape[2:]
        even = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
        h = F.silu(self.into(F.pixel_unshuffle(even, 2)))
        for convolution in self.middle:
            h = h + F.silu(convolution(h))
        detail = F.pixel_shuffle(self.out(h), 2)[:, :, :height, :width]
        return 4 * (image - 0.5) + detail  # 4: the slope at which a logit's sigmoid is the pixel itself at mid grey


class PcaAutoencoder(nn.Module):
    """Latents are coordinates along the leading principal components of the public images (Pearson 1901).

    A coordinate is divided by the root of its public standard deviation, half way between pixels' units and equal
    sizes: noise of one size in all of them hides the small ones first, yet leaves some of each. One more factor makes
    the mean squared norm of a public latent latent_dim. With spec.steps above 0 the image that the components give goes
    through a Restorer, trained on public images to undo what they lose.
    """

    def __init__(self, spec: AutoencoderSpec, *, image_shape: tuple[int, int, int], generator: torch.Generator):
        super().__init__()
        self.image_shape = tuple(image_shape)
        pixels = math.prod(image_shape)
        self.latent_shape = (min(spec.latent_dim, pixels),)
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(pixels, *self.latent_shape))
        self.register_buffer("scale", torch.ones(self.latent_shape))
        self.restorer = (
            Restorer(num_channels=image_shape[0], width=spec.width, generator=generator) if spec.steps else None
        )

    def set_components(self, mean: torch.Tensor, covariance: torch.Tensor) -> None:
        """Takes the leading eigenvectors of the public pixels' covariance, (P, P) float64, about their mean (P,)."""
        values, vectors = torch.linalg.eigh(covariance)
        size = self.latent_shape[0]
        leading = vectors.flip(1)[:, :size]
        # An eigenvector's sign is arbitrary: its largest entry is made positive, so that the same images give the same.
        rows = leading.abs().argmax(dim=0)
        leading = leading * leading[rows, torch.arange(size)].sign()
        self.mean.copy_(mean)
        self.components.copy_(leading)
        # 1e-6: where the public images do not vary, a coordinate is about 0 / 1e-6 and stays finite.
        deviation = values.flip(0)[:size].clamp(min=1e-12).sqrt()
        self.scale.copy_((deviation * deviation.mean()).sqrt())

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> latent (B, latent_dim)."""
        return (image.flatten(1) - self.mean) @ self.components / self.scale

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent -> image (B, C, H, W) in [0, 1]."""
        projected = self._project_back(latent)
        return projected.clamp(0, 1) if self.restorer is None else torch.sigmoid(self.restorer(projected))

    def _project_back(self, latent: torch.Tensor) -> torch.Tensor:
        return ((latent * self.scale) @ self.components.T + self.mean).reshape(-1, *self.image_shape)

    def reconstruction_loss(self, image: torch.Tensor, noise: torch.Tensor, noise_scale: torch.Tensor) -> torch.Tensor:
        """Mean binary cross-entropy of the pixels of a latent with noise on it, so that draws that lie a little off
        the images' latents are restored too.

        noise: (B, latent_dim) standard normal; noise_scale: (B, 1).
        """
        with torch.no_grad():
            projected = self._project_back(self.encode(image) + noise_scale * noise)
        return F.binary_cross_entropy_with_logits(self.restorer(projected), image)


AUTOENCODERS = {"identity": IdentityAutoencoder, "conv": ConvAutoencoder, "pca": PcaAutoencoder}


def build_autoencoder(spec: AutoencoderSpec, *, image_shape: tuple[int, int, int], generator: torch.Generator):
    """A freshly initialised autoencoder on the CPU with encode, decode and latent_shape."""
    return AUTOENCODERS[spec.kind](spec, image_shape=image_shape, generator=generator)


def to_unit_range(image: torch.Tensor) -> torch.Tensor:
    """uint8 pixels -> float32 in [0, 1]."""
    return image.to(torch.float32) / 255


def to_pixels(image: torch.Tensor) -> torch.Tensor:
    """float in [0, 1] -> uint8 pixels, rounded."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)
