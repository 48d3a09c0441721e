"""From images to latents and back; latents are standardised by public statistics so that the noise fits them."""

from __future__ import annotations

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


AUTOENCODERS = {"identity": IdentityAutoencoder, "conv": ConvAutoencoder}


def build_autoencoder(spec: AutoencoderSpec, *, image_shape: tuple[int, int, int], generator: torch.Generator):
    """A freshly initialised autoencoder on the CPU with encode, decode and latent_shape."""
    return AUTOENCODERS[spec.kind](spec, image_shape=image_shape, generator=generator)


def to_unit_range(image: torch.Tensor) -> torch.Tensor:
    """uint8 pixels -> float32 in [0, 1]."""
    return image.to(torch.float32) / 255


def to_pixels(image: torch.Tensor) -> torch.Tensor:
    """float in [0, 1] -> uint8 pixels, rounded."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)
