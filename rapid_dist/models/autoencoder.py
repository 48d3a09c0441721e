"""From images to latents and back; latents are standardised by public statistics so that the noise fits them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from rapid_dist.models.denoisers import init_parameters
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


class PcaAutoencoder(nn.Module):
    """Latents are coordinates along the leading principal components of the public images (Pearson 1901).

    They share one scale, by which the mean squared norm of a public latent is latent_dim: coordinates keep their
    relative sizes, so that noise of one size in all of them hides the small ones first.
    """

    def __init__(self, spec: AutoencoderSpec, *, image_shape: tuple[int, int, int], generator: torch.Generator):
        super().__init__()
        self.image_shape = tuple(image_shape)
        pixels = math.prod(image_shape)
        self.latent_shape = (min(spec.latent_dim, pixels),)
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(pixels, *self.latent_shape))
        self.register_buffer("scale", torch.ones(()))

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
        self.scale.copy_((values.flip(0)[:size].clamp(min=0).sum() / size).sqrt().clamp(min=1e-6))

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> latent (B, latent_dim)."""
        return (image.flatten(1) - self.mean) @ self.components / self.scale

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent -> image (B, C, H, W), clamped to [0, 1]."""
        pixels = (latent * self.scale) @ self.components.T + self.mean
        return pixels.reshape(-1, *self.image_shape).clamp(0, 1)


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
