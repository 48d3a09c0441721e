"""The engines against the reference, Opacus, layer by layer; what each engine refuses, and which one is chosen."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch
from opacus.layers import DPMultiheadAttention
from torch import nn

from rapid_dist.errors import SpecError
from rapid_dist.privacy import clipping
from rapid_dist.privacy.clipping import AUTO, ENGINES, choose_engine, clipped_gradient_sum
from rapid_dist.specs import RuntimeSpec
from tests.privacy.nets import build, draw_batch, generator, relative_error

EXAMPLES, DRAWS, CLIP = 5, 2, 0.3


def loss_fn(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().flatten(1).sum(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = DPMultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x)[0]


class Twice(nn.Module):
    """One Linear layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


class Gain(nn.Module):
    """A layer that nobody knows, with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.gain


class Unused(nn.Module):
    """A model with a Linear layer that its output does not depend on, and one that it never calls."""

    def __init__(self):
        super().__init__()
        self.used, self.dropped, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        self.dropped(x)
        return self.used(x)


def with_one_weight() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


LAYERS = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False)), (4,)),
    "linear over tokens": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), (3, 4)),
    "linear over a grid": (lambda: nn.Linear(4, 3), (2, 3, 4)),
    "layers that do not matter": (Unused, (4,)),
    "convolution": (lambda: nn.Conv2d(2, 4, 3, padding=1, stride=2), (2, 5, 5)),
    "grouped convolution": (lambda: nn.Conv2d(2, 4, 3, groups=2, dilation=2), (2, 6, 6)),
    "convolution over a line": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 5)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)), (1, 3, 3)),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)), (3, 4)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 2)), None),
    "attention": (Attention, (3, 4)),
    "a layer used twice": (Twice, (4,)),
    "two layers with one weight": (with_one_weight, (4,)),
    "an unknown layer": (lambda: nn.Sequential(nn.Linear(4, 4), Gain()), (4,)),
}
TAKEN_BY_LINEAR = ["linear", "layers that do not matter"]


def rows_of(shape: tuple[int, ...] | None) -> tuple[torch.Tensor, ...]:
    """Rows of very different sizes; None is whole numbers below 6."""
    rows = EXAMPLES * DRAWS
    if shape is None:
        return (torch.randint(6, (rows, 3), generator=generator(0)),)
    scale = torch.logspace(-1, 1, rows).reshape(-1, *[1] * len(shape))
    return (scale * torch.randn(rows, *shape, generator=generator(0)),)


def made(layer: str) -> nn.Module:
    model = LAYERS[layer][0]()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=generator(i)))
    return model


def clipped(model: nn.Module, layer: str, engine: str) -> torch.Tensor:
    rows = rows_of(LAYERS[layer][1])
    return clipped_gradient_sum(loss_fn, model, rows, rows_per_example=DRAWS, max_grad_norm=CLIP, engine=engine)


@pytest.mark.parametrize(
    ("layer", "engine"), [*((layer, "vmap") for layer in LAYERS), *((layer, "linear") for layer in TAKEN_BY_LINEAR)]
)
def test_every_engine_gives_the_sum_of_the_reference(layer, engine):
    model = made(layer)
    reference = clipped(model, layer, "opacus")
    assert 0 < reference.norm() <= EXAMPLES * CLIP
    assert relative_error(clipped(model, layer, engine), reference) < 1e-5


@pytest.mark.parametrize("kind", ["residual_mlp", "unet"])
def test_the_denoisers_give_the_sum_of_the_reference(kind):
    from tests.privacy.nets import clipped

    model, batch = build(kind), draw_batch(kind, 7, 3)
    assert relative_error(clipped(model, batch), clipped(model, batch, engine="opacus")) < 1e-5


def test_the_engine_is_chosen_by_what_the_parameters_belong_to():
    assert choose_engine(build("residual_mlp")) == choose_engine(build("mlp")) == "linear"
    assert choose_engine(build("unet")) == "vmap"
    chosen = {layer: choose_engine(made(layer)) for layer in LAYERS}
    assert {layer for layer, engine in chosen.items() if engine == "vmap"} == {
        "convolution",
        "grouped convolution",
        "convolution over a line",
        "group norm",
        "layer norm",
        "embedding",
        "two layers with one weight",
        "an unknown layer",
    }
    free = made("linear")
    free.gain = nn.Parameter(torch.ones(1))
    assert choose_engine(free) == "vmap"
    assert choose_engine(free, "opacus") == "opacus"


def test_the_engines_of_a_spec_are_those_there_are():
    assert get_args(get_type_hints(RuntimeSpec)["clipping_engine"]) == (AUTO, *ENGINES)
    assert RuntimeSpec().clipping_engine == AUTO


@pytest.mark.parametrize(
    ("make", "engine", "message"),
    [
        (lambda: made("linear"), "ghost", "expected one of auto, vmap, linear, opacus"),
        (lambda: made("convolution"), "linear", "outside of Linear layers"),
        (lambda: made("two layers with one weight"), "linear", "shared"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "opacus", "buffers"),
        (lambda: made("linear").eval(), "opacus", "training mode"),
        (lambda: nn.Sequential(shared := nn.Linear(4, 4), nn.Sequential(shared)), "opacus", "two places"),
    ],
)
def test_an_engine_refuses_what_it_cannot_take(make, engine, message):
    with pytest.raises(SpecError, match=message):
        clipped_gradient_sum(loss_fn, make(), rows_of((4,)), max_grad_norm=1.0, engine=engine)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("a layer used twice", "used twice"),
        ("linear over tokens", "another input than one vector for each row"),
        ("linear over a grid", "another input than one vector for each row"),
        ("attention", "another input than one vector for each row"),
    ],
)
def test_a_use_of_linear_layers_that_the_linear_engine_does_not_know_is_refused_and_leaves_no_hooks(layer, message):
    model = made(layer)
    with pytest.raises(SpecError, match=f"{message}.*use the vmap engine"):
        clipped(model, layer, "linear")
    assert not any(m._forward_hooks for m in model.modules())


def test_more_vectors_than_rows_are_refused_by_the_linear_engine():
    def tokens_first(model, x):
        return model(x.transpose(0, 1).flatten(0, 1)).square().sum(1).unflatten(0, (-1, len(x))).sum(0)

    with pytest.raises(SpecError, match="one vector for each row"):
        clipped_gradient_sum(tokens_first, made("linear"), rows_of((3, 4)), max_grad_norm=1.0, engine="linear")


def test_the_reference_leaves_no_trace_when_it_fails(monkeypatch):
    def failing(squared_norms, max_grad_norm):
        raise KeyboardInterrupt

    monkeypatch.setattr(clipping, "clip_factors", failing)
    model = made("convolution")
    with pytest.raises(KeyboardInterrupt):
        clipped(model, "convolution", "opacus")
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert not hasattr(model, "autograd_grad_sample_hooks")
