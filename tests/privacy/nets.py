"""What the tests of clipping share: small networks with a loss, batches of examples with K rows, and the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.privacy.clipping import clipped_gradient_sum
from rapid_dist.specs import DenoiserSpec

SHAPES = {"mlp": (6,), "conv": (1, 4, 4), "residual_mlp": (3, 2), "unet": (1, 4, 4)}
DENOISERS = ("residual_mlp", "unet")
# Every engine on a small network it can take. A UNet costs ten times as much, so each property has it in one row.
ENGINES = [("mlp", "linear"), ("conv", "vmap"), ("conv", "opacus")]
UNET = ("unet", "vmap")
NUM_CONDITIONS = 2


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squared_error(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (model(x) - target).square().flatten(1).mean(1)


def loss_of(kind: str) -> Callable[..., torch.Tensor]:
    return denoising_loss if kind in DENOISERS else squared_error


def build(kind: str) -> nn.Module:
    """A network whose zero-initialised layers are moved, so that every parameter has a gradient."""
    if kind == "mlp":
        model: nn.Module = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 6))
    elif kind == "conv":
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)
        )
    else:
        spec = DenoiserSpec(kind=kind, width=8, num_blocks=2, embedding_dim=4)
        model = build_denoiser(spec, latent_shape=SHAPES[kind], num_conditions=NUM_CONDITIONS, generator=generator(0))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            if kind in DENOISERS:
                p.add_(0.2 * torch.randn(p.shape, generator=generator(1)))
            else:
                p.copy_(0.25 * torch.randn(p.shape, generator=generator(i)))
    return model


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B examples of `draws` rows each. tensors: (B * draws, ...), x and target first, as the loss takes them."""

    kind: str
    tensors: tuple[torch.Tensor, ...]
    draws: int

    def __len__(self) -> int:
        return len(self.tensors[0]) // self.draws

    def rows_of(self, i: int) -> slice:
        return slice(i * self.draws, (i + 1) * self.draws)

    def take(self, examples: list[int]) -> Batch:
        """The examples given by position, one of them perhaps twice."""
        row = torch.cat([torch.arange(0), *(torch.arange(self.draws) + i * self.draws for i in examples)])
        return replace(self, tensors=tuple(t[row] for t in self.tensors))

    def without(self, i: int) -> Batch:
        return self.take([j for j in range(len(self)) if j != i])

    def changed(self, rows: Any, **values: Any) -> Batch:
        """The batch with some rows of x, target or condition set to a value."""
        tensors = [t.clone() for t in self.tensors]
        for name, value in values.items():
            tensors[{"x": 0, "target": 1, "condition": 3}[name]][rows] = value
        return replace(self, tensors=tuple(tensors))


def draw_batch(kind: str, size: int, draws: int, *, seed: int = 2) -> Batch:
    """Scales differ so that some gradients are clipped and others are not."""
    g, shape, rows = generator(seed), SHAPES[kind], size * draws
    scale = torch.logspace(-2, 1, max(size, 1))[:size].repeat_interleave(draws).reshape(-1, *[1] * len(shape))
    tensors = [torch.randn(rows, *shape, generator=g), scale * torch.randn(rows, *shape, generator=g)]
    if kind in DENOISERS:
        label = torch.randint(NUM_CONDITIONS, (size,), generator=g).repeat_interleave(draws)
        tensors += [torch.randint(1000, (rows,), generator=g), torch.eye(NUM_CONDITIONS)[label]]
    return Batch(kind=kind, tensors=tuple(tensors), draws=draws)


def clipped(model: nn.Module, batch: Batch, *, max_grad_norm: float = 1.0, **settings: Any) -> torch.Tensor:
    return clipped_gradient_sum(
        loss_of(batch.kind),
        model,
        batch.tensors,
        rows_per_example=batch.draws,
        max_grad_norm=max_grad_norm,
        **settings,
    )


def gradients_one_by_one(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(B, P) float64: each row alone, an example's loss the mean over its rows, plain autograd."""
    model = copy.deepcopy(model).double()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):  # the timestep embedding is float32 whatever the model is
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    tensors = [t.double() if t.is_floating_point() else t for t in batch.tensors]
    found = []
    for i in range(len(batch)):
        loss = torch.zeros((), dtype=torch.float64)
        for row in range(i * batch.draws, (i + 1) * batch.draws):
            loss = loss + loss_of(batch.kind)(model, *(t[row : row + 1] for t in tensors)).sum() / batch.draws
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(found)


def clip_rows(rows: torch.Tensor, max_grad_norm: float) -> torch.Tensor:
    return rows * (max_grad_norm / rows.norm(dim=1, keepdim=True)).clamp(max=1)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()
