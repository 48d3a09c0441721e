"""A network whose rows mix is refused, in whatever way it mixes them; and what mixing would cost."""

from __future__ import annotations

import copy

import pytest
import torch
from opacus.layers import DPMultiheadAttention
from torch import nn

from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.errors import SpecError
from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.privacy.clipping import clipped_gradient_sum
from rapid_dist.privacy.network import check_network
from rapid_dist.specs import DenoiserSpec
from tests.privacy.nets import build, generator, squared_error


class Mixing(nn.Module):
    """Linear layers with something between them that looks at the whole batch."""

    def __init__(self, mix):
        super().__init__()
        self.first, self.second, self.mix = nn.Linear(4, 4), nn.Linear(4, 4), mix

    def forward(self, x):
        return self.second(self.first(x) + self.mix(x))


def behind_zero_weights() -> nn.Module:
    zero = nn.Linear(4, 4)
    nn.init.zeros_(zero.weight)
    nn.init.zeros_(zero.bias)
    return Mixing(lambda x: 0.0 * zero(x.mean(0, keepdim=True)))


class Counting(nn.Module):
    """A layer that keeps state: its answer depends on how often it was asked."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 4), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * self.calls


# By layers that Opacus knows, and by code that it cannot see.
KNOWN = {
    "BatchNorm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)),
    "running stats": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.Flatten()
    ),
    "MultiheadAttention": lambda: nn.ModuleList([nn.MultiheadAttention(4, 2)]),
}
UNSEEN = {
    "BatchNorm without weights": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)),
    "the mean of the batch": lambda: Mixing(lambda x: -x.mean(0, keepdim=True)),
    "its mean without gradient": lambda: Mixing(lambda x: -x.detach().mean(0, keepdim=True)),
    "a millionth of a millionth of it": lambda: Mixing(lambda x: 1e-12 * x.mean(0, keepdim=True)),
    "what is multiplied by zero": behind_zero_weights,
    "its mean without what is not finite": lambda: Mixing(lambda x: x.nan_to_num().mean(0, keepdim=True)),
    "the row before": lambda: Mixing(lambda x: x.roll(1, 0)),
    "the rows before": lambda: Mixing(lambda x: x.cumsum(0)),
    "the last row": lambda: Mixing(lambda x: torch.cat([x[-1:], x[1:]])),
    "attention over the batch": lambda: Mixing(lambda x: (x @ x.T).softmax(1) @ x),
    "a scale of all rows": lambda: Mixing(lambda x: x / x.norm()),
}


def rows(num_rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(num_rows, 4, generator=generator(seed)) for seed in (0, 1))


@pytest.mark.parametrize("kind", KNOWN)
def test_a_layer_that_mixes_examples_is_named_with_what_to_do(kind):
    with pytest.raises(SpecError, match=r"cannot be trained privately: .*; replace the layer, as .*fix") as caught:
        check_network(squared_error, KNOWN[kind](), rows())
    assert kind in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", UNSEEN)
def test_a_network_that_mixes_rows_by_itself_is_refused_with_what_to_do(kind):
    with pytest.raises(SpecError, match=r"mixes examples: .* normalise and attend within each row"):
        check_network(squared_error, UNSEEN[kind](), rows())


def test_rows_that_mix_by_whole_numbers_alone_are_refused():
    def loss_fn(model, x, label):
        return model(x).square().sum(1) * (1 + label.double().mean().float())

    with pytest.raises(SpecError, match="mixes examples"):
        check_network(loss_fn, nn.Linear(4, 4), (rows()[0], torch.arange(3)))


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), Counting])
def test_chance_or_state_in_the_forward_pass_is_refused(make):
    with pytest.raises(SpecError, match="changes from one forward pass"):
        check_network(squared_error, make(), rows())


def test_a_loss_over_the_whole_batch_is_refused():
    with pytest.raises(SpecError, match="not one loss a row"):
        check_network(lambda model, *tensors: squared_error(model, *tensors).mean(), nn.Linear(4, 4), rows())


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = DPMultiheadAttention(2, 1, batch_first=True)

    def forward(self, x):
        tokens = x.reshape(-1, 2, 2)
        return self.attend(tokens, tokens, tokens)[0].flatten(1)


@pytest.mark.parametrize(
    ("make", "engine"),
    [
        (lambda: nn.Linear(4, 4), "auto"),
        (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)), "auto"),
        (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)), "opacus"),
        (Attending, "vmap"),
        (Attending, "opacus"),
    ],
)
def test_a_network_of_separate_rows_passes(make, engine):
    check_network(squared_error, make(), rows(), engine=engine)


@pytest.mark.parametrize("engine", ["auto", "opacus"])
@pytest.mark.parametrize("kind", ["residual_mlp", "unet"])
def test_the_denoisers_pass_as_they_are_made(kind, engine):
    shape, g = (1, 4, 4), generator(0)
    spec = DenoiserSpec(kind=kind, width=8, num_blocks=2, embedding_dim=4)
    model = build_denoiser(spec, latent_shape=shape, num_conditions=2, generator=g)
    x_t, noise = (torch.randn(3, *shape, generator=g) for _ in range(2))
    check_network(denoising_loss, model, (x_t, noise, torch.arange(3) * 300, torch.eye(2)[[0, 1, 0]]), engine=engine)


class Scaled(nn.Module):
    """A module with a weight of its own whose second input has a default: Opacus hands it the first alone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x, scale=1.0):
        return x * self.weight * scale


class Scaling(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.layer, self.scaled, self.scale = nn.Linear(4, 4), Scaled(), scale

    def forward(self, x):
        scale = torch.full_like(x, 3.0) if self.scale is None else self.scale
        return self.scaled(self.layer(x), scale)


class Flipped(nn.Module):
    """Rows stay separate, but one layer sees them in another order, where the linear engine takes each for another."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.other(self.layer(x.flip(0)).flip(0))


class Again(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


@pytest.mark.parametrize(
    ("make", "engine", "message"),
    [
        (lambda: Scaling(None), "opacus", "finds other gradients of this network than autograd"),
        (Flipped, "linear", "finds other gradients of this network than autograd"),
        (lambda: Scaling(3.0), "opacus", "cannot take this network: AttributeError"),
        (Again, "auto", "used twice in one forward pass"),
        (lambda: nn.LayerNorm(4), "linear", "outside of Linear layers"),
        (lambda: nn.Linear(4, 4), "ghost", "expected one of"),
    ],
)
def test_an_engine_that_cannot_take_the_network_is_refused_beforehand(make, engine, message):
    with pytest.raises(SpecError, match=message):
        check_network(squared_error, make(), rows(), engine=engine)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_check_leaves_the_network_and_the_stream_of_random_numbers_alone(kind):
    model, before = build(kind), torch.random.get_rng_state()
    weights = copy.deepcopy(model.state_dict())
    x = torch.randn(3, *({"mlp": (6,), "conv": (1, 4, 4)}[kind]), generator=generator(0))
    for engine in ("auto", "opacus"):
        check_network(squared_error, model, (x, x + 1), engine=engine)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert torch.equal(before, torch.random.get_rng_state())


def test_rows_that_mix_would_move_the_sum_by_more_than_the_clip():
    """Why it is refused: one record that is there or not changes the clipped gradients of all others."""
    model = Mixing(lambda x: -3 * x.mean(0, keepdim=True))
    x, target = rows(20)
    x[0] = 1e3
    moved = {}
    for name, network in (("separate", nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), ("mixing", model)):
        whole, rest = (
            clipped_gradient_sum(squared_error, network, tensors, max_grad_norm=0.1)
            for tensors in ((x, target), (x[1:], target[1:]))
        )
        moved[name] = (whole - rest).norm().item()
    assert moved["separate"] <= 0.1 * (1 + 1e-6)
    assert moved["mixing"] > 0.2
