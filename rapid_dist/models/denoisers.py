"""Networks that predict the noise: one file each and one entry in the table.

Every denoiser is called as f(x_t, timestep, condition) with x_t (B, *latent_shape) float32, timestep (B,) int64
and condition (B, num_conditions) float32, a one-hot row a class or zeros for no class. No network
mixes examples; training.plan.check_denoiser refuses one that does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from rapid_dist.errors import SpecError
from rapid_dist.specs import DenoiserSpec


def embed_timestep(timestep: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017, section 3.5) of (B,) int64 into (B, dim) float32; dim is even."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=timestep.device) / half)
    angle = timestep.to(torch.float32)[:, None] * frequency[None, :]
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def init_parameters(module: nn.Module, generator: torch.Generator) -> None:
    """Kaiming-uniform weights and zero biases for every Linear and convolution, drawn from the generator."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def zero_init(layer: nn.Linear | nn.Conv2d) -> None:
    """Makes a residual branch start as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class _Conditioned(nn.Module):
    """What denoisers share: the embedding of timestep and class, and where weights start."""

    def __init__(self, spec: DenoiserSpec, num_conditions: int):
        super().__init__()
        self.embedding_dim = spec.embedding_dim
        self.embed_time = nn.Linear(spec.embedding_dim, spec.embedding_dim)
        self.embed_class = nn.Linear(num_conditions, spec.embedding_dim, bias=False) if num_conditions else None

    def start(self, generator: torch.Generator, *, at_zero: Iterable[nn.Linear | nn.Conv2d]) -> None:
        """Draws all weights; the layers at_zero start at zero, classes at normal vectors."""
        init_parameters(self, generator)
        for layer in at_zero:
            zero_init(layer)
        if self.embed_class is not None:
            nn.init.normal_(self.embed_class.weight, std=1.0, generator=generator)

    def embed(self, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(B,) int64 and (B, num_conditions) -> (B, embedding_dim)."""
        c = self.embed_time(embed_timestep(timestep, self.embedding_dim))
        if self.embed_class is not None:
            c = c + self.embed_class(condition)
        return F.silu(c)


class ResidualMlp(_Conditioned):
    """x_t (B, *latent_shape) float32 -> predicted noise of the same shape."""

    def __init__(
        self,
        spec: DenoiserSpec,
        *,
        latent_shape: tuple[int, ...],
        num_conditions: int,
        generator: torch.Generator,
    ):
        super().__init__(spec, num_conditions)
        self.latent_shape = tuple(latent_shape)
        size, width, embedding = math.prod(latent_shape), spec.width, spec.embedding_dim
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(_MlpBlock(width, embedding) for _ in range(spec.num_blocks))
        self.leave = nn.Linear(width, size)
        self.skip = nn.Linear(embedding, size)
        self.start(generator, at_zero=[*(block.second for block in self.blocks), self.leave, self.skip])

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        c = self.embed(timestep, condition)
        x = x_t.flatten(1)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, c)
        h = F.layer_norm(h, h.shape[1:])
        # x_t itself is nearly the noise at late timesteps: a gate per coordinate passes it through.
        return (self.leave(F.silu(h)) + x * self.skip(c)).reshape(-1, *self.latent_shape)


class _MlpBlock(nn.Module):
    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.shift = nn.Linear(embedding, width, bias=False)
        self.second = nn.Linear(width, width)

    def forward(self, h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        inner = self.first(F.layer_norm(h, h.shape[1:])) + self.shift(c)
        return h + self.second(F.silu(inner))


class UNet(_Conditioned):
    """x_t (B, C, H, W) float32 -> predicted noise of the same shape. `num_blocks` is the number of levels."""

    def __init__(
        self,
        spec: DenoiserSpec,
        *,
        latent_shape: tuple[int, ...],
        num_conditions: int,
        generator: torch.Generator,
    ):
        super().__init__(spec, num_conditions)
        if len(latent_shape) != 3:
            raise SpecError(f"denoiser.kind is 'unet' but latents have shape {latent_shape}; expected (C, H, W)")
        channels, height, _ = latent_shape
        smallest = height >> (spec.num_blocks - 1)
        if smallest < 2:
            raise SpecError(
                f"denoiser.num_blocks is {spec.num_blocks}, which shrinks {height} pixels to {smallest}; use fewer"
            )
        embedding = spec.embedding_dim
        widths = [spec.width * min(2**level, 4) for level in range(spec.num_blocks)]
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        before = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(_ConvBlock(i, o, embedding) for i, o in zip(before, widths, strict=True))
        self.middle = _ConvBlock(widths[-1], widths[-1], embedding)
        after = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(_ConvBlock(a + w, w, embedding) for a, w in zip(after, widths, strict=True))
        self.norm = _group_norm(widths[0])
        self.leave = nn.Conv2d(widths[0], channels, 3, padding=1)
        blocks = [*self.down, self.middle, *self.up]
        self.start(generator, at_zero=[self.leave, *(block.second for block in blocks)])

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        c = self.embed(timestep, condition)
        h = self.enter(x_t)
        passed = []
        for level, block in enumerate(self.down):
            h = block(h, c)
            passed.append(h)
            if level + 1 < len(self.down):
                h = F.avg_pool2d(h, 2, ceil_mode=True)
        h = self.middle(h, c)
        for block, skip in zip(reversed(self.up), reversed(passed), strict=True):
            if h.shape[-2:] != skip.shape[-2:]:
                h = F.interpolate(h, size=skip.shape[-2:], mode="nearest")
            h = block(torch.cat([h, skip], dim=1), c)
        return self.leave(F.silu(self.norm(h)))


def _group_norm(channels: int) -> nn.GroupNorm:
    """Groups of at least 4 channels where there are as many: a group of one would undo the shift by time and class."""
    groups = next((g for g in (8, 4, 2) if channels % g == 0 and channels // g >= 4), 1)
    return nn.GroupNorm(groups, channels)


class _ConvBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, embedding: int):
        super().__init__()
        self.norm1 = _group_norm(in_channels)
        self.first = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.shift = nn.Linear(embedding, out_channels)
        self.norm2 = _group_norm(out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.pass_through = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        inner = self.first(F.silu(self.norm1(h))) + self.shift(c)[:, :, None, None]
        return self.pass_through(h) + self.second(F.silu(self.norm2(inner)))


DENOISERS = {"residual_mlp": ResidualMlp, "unet": UNet}


def build_denoiser(
    spec: DenoiserSpec, *, latent_shape: tuple[int, ...], num_conditions: int, generator: torch.Generator
) -> torch.nn.Module:
    """A freshly initialised denoiser on the CPU; num_conditions may be 0 (unconditional)."""
    return DENOISERS[spec.kind](spec, latent_shape=latent_shape, num_conditions=num_conditions, generator=generator)


def one_hot_condition(label: torch.Tensor, num_conditions: int) -> torch.Tensor:
    """(B,) int64 -> (B, num_conditions) float32; a negative label is no class: a row of zeros."""
    condition = torch.zeros(len(label), num_conditions, device=label.device)
    known = label >= 0
    condition[known.nonzero().squeeze(1), label[known]] = 1.0
    return condition
