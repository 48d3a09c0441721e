"""A small convolutional UNet with GroupNorm for image-shaped latents. GroupNorm sees one example at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rapid_dist.diffusion.denoisers.layers import embed_timestep, init_parameters, zero_init
from rapid_dist.errors import SpecError
from rapid_dist.specs import DenoiserSpec


class UNet(nn.Module):
    """x_t (B, C, H, W) float32 -> predicted noise of the same shape. `num_blocks` is the number of levels."""

    def __init__(
        self,
        spec: DenoiserSpec,
        *,
        latent_shape: tuple[int, ...],
        num_conditions: int,
        generator: torch.Generator,
    ):
        super().__init__()
        if len(latent_shape) != 3:
            raise SpecError(f"denoiser.kind is 'unet' but latents have shape {latent_shape}; expected (C, H, W)")
        channels, height, _ = latent_shape
        smallest = height >> (spec.num_blocks - 1)
        if smallest < 2:
            raise SpecError(
                f"denoiser.num_blocks is {spec.num_blocks}, which shrinks {height} pixels to {smallest}; use fewer"
            )
        self.embedding_dim = embedding = spec.embedding_dim
        widths = [spec.width * min(2**level, 4) for level in range(spec.num_blocks)]
        self.embed_time = nn.Linear(embedding, embedding)
        self.embed_class = nn.Linear(num_conditions, embedding, bias=False) if num_conditions else None
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        before = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(_Block(i, o, embedding) for i, o in zip(before, widths, strict=True))
        self.middle = _Block(widths[-1], widths[-1], embedding)
        after = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(_Block(a + w, w, embedding) for a, w in zip(after, widths, strict=True))
        self.norm = _group_norm(widths[0])
        self.leave = nn.Conv2d(widths[0], channels, 3, padding=1)
        init_parameters(self, generator)
        zero_init(self.leave)
        for block in self.modules():
            if isinstance(block, _Block):
                zero_init(block.second)
        if self.embed_class is not None:
            nn.init.normal_(self.embed_class.weight, std=1.0, generator=generator)

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        c = self.embed_time(embed_timestep(timestep, self.embedding_dim))
        if self.embed_class is not None:
            c = c + self.embed_class(condition)
        c = F.silu(c)
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


class _Block(nn.Module):
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
