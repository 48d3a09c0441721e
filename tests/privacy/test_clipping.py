"""The two engines against one example at a time in float64, and what one record may do to the sum."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from rapid_dist.models.denoisers import build_denoiser, init_parameters
from rapid_dist.privacy.clipping import PrivateBatch, choose_engine, clip_factors, clipped_gradient_sum
from rapid_dist.specs import DenoiserSpec

SHAPES = {"residual_mlp": (3, 2), "unet": (1, 4, 4)}
MODELS = [("residual_mlp", "linear"), ("residual_mlp", "vmap"), ("unet", "vmap")]
NUM_CONDITIONS = 2


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(kind: str) -> nn.Module:
    """A denoiser whose zero-initialised layers are moved, so that every parameter has a gradient."""
    spec = DenoiserSpec(kind=kind, width=8, num_blocks=2, embedding_dim=4)
    model = build_denoiser(spec, latent_shape=SHAPES[kind], num_conditions=NUM_CONDITIONS, generator=generator(0))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator(1)))
    return model


def draw_batch(kind: str, size: int, draws: int, *, seed: int = 2) -> PrivateBatch:
    g, shape = generator(seed), SHAPES[kind]
    # Scales differ so that some gradients are clipped and others are not.
    scale = torch.logspace(-2, 1, max(size, 1))[:size].reshape(-1, *[1] * (len(shape) + 1))
    condition = torch.eye(NUM_CONDITIONS)[torch.randint(NUM_CONDITIONS, (size,), generator=g)]
    return PrivateBatch(
        x_t=torch.randn(size, draws, *shape, generator=g),
        noise=scale * torch.randn(size, draws, *shape, generator=g),
        timestep=torch.randint(1000, (size, draws), generator=g),
        condition=condition.reshape(size, NUM_CONDITIONS),
    )


def clipped(model, batch, *, engine=None, max_grad_norm=1.0, max_physical_batch_size=1000) -> torch.Tensor:
    return clipped_gradient_sum(
        model, batch, max_grad_norm=max_grad_norm, max_physical_batch_size=max_physical_batch_size, engine=engine
    )


def gradients_one_by_one(model: nn.Module, batch: PrivateBatch) -> torch.Tensor:
    """(B, P) float64: each example alone, its loss the mean over draws and coordinates, plain autograd."""
    model, draws = copy.deepcopy(model).double(), batch.timestep.shape[1]
    for layer in model.modules():
        if isinstance(layer, nn.Linear):  # the timestep embedding is float32 whatever the model is
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    rows = []
    for i in range(len(batch)):
        loss = torch.zeros((), dtype=torch.float64)
        for k in range(draws):
            x_t, condition = batch.x_t[i, k].double(), batch.condition[i].double()
            predicted = model(x_t[None], batch.timestep[i, k][None], condition[None])
            loss = loss + (predicted[0] - batch.noise[i, k].double()).square().mean() / draws
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows)


def clip_rows(rows: torch.Tensor, max_grad_norm: float) -> torch.Tensor:
    return rows * (max_grad_norm / rows.norm(dim=1, keepdim=True)).clamp(max=1)


def with_row(batch: PrivateBatch, i: int, **values) -> PrivateBatch:
    """The batch with some fields of example i set to a value."""
    changed = {}
    for name, value in values.items():
        tensor = getattr(batch, name).clone()
        tensor[i] = value
        changed[name] = tensor
    return replace(batch, **changed)


def without_row(batch: PrivateBatch, i: int) -> PrivateBatch:
    keep = [j for j in range(len(batch)) if j != i]
    return PrivateBatch(
        x_t=batch.x_t[keep], noise=batch.noise[keep], timestep=batch.timestep[keep], condition=batch.condition[keep]
    )


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("kind", "engine"), MODELS)
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("max_grad_norm", [0.05, 1.0, 1e6])
def test_the_sum_equals_clipping_one_example_at_a_time(kind, engine, draws, max_grad_norm):
    model, batch = build(kind), draw_batch(kind, 7, draws)
    rows = gradients_one_by_one(model, batch)
    actual = clipped(model, batch, engine=engine, max_grad_norm=max_grad_norm)
    assert actual.dtype == torch.float64
    assert relative_error(actual, clip_rows(rows, max_grad_norm).sum(0)) < 1e-5


@pytest.mark.parametrize("draws", [1, 3])
def test_the_oracle_batch_has_clipped_and_unclipped_examples(draws):
    norms = gradients_one_by_one(build("residual_mlp"), draw_batch("residual_mlp", 7, draws)).norm(dim=1)
    assert norms.min() < 0.7
    assert norms.max() > 1.5


def test_the_sum_equals_that_of_opacus():
    from opacus.grad_sample import GradSampleModule

    model, batch = build("residual_mlp"), draw_batch("residual_mlp", 7, 1)
    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on hooks of inputs without gradient
        predicted = wrapped(batch.x_t[:, 0], batch.timestep[:, 0], batch.condition)
        (predicted - batch.noise[:, 0]).square().flatten(1).mean(1).sum().backward()
    rows = torch.cat([p.grad_sample.flatten(1) for p in wrapped.parameters()], dim=1).double()
    for engine in ("linear", "vmap"):
        assert relative_error(clipped(model, batch, engine=engine), clip_rows(rows, 1.0).sum(0)) < 1e-5


@pytest.mark.parametrize(("kind", "engine"), MODELS)
@pytest.mark.parametrize("draws", [1, 2, 8])
def test_several_draws_of_one_record_count_as_one_record(kind, engine, draws):
    batch = draw_batch(kind, 1, draws)
    batch = replace(batch, noise=100 * batch.noise)
    total = clipped(build(kind), batch, engine=engine, max_grad_norm=0.1)
    assert 0.1 * (1 - 1e-5) < total.norm() <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize(("kind", "engine"), MODELS)
def test_equal_draws_of_a_record_are_worth_one_draw(kind, engine):
    model, batch = build(kind), draw_batch(kind, 4, 1)
    repeated = PrivateBatch(
        x_t=batch.x_t.repeat_interleave(3, dim=1),
        noise=batch.noise.repeat_interleave(3, dim=1),
        timestep=batch.timestep.repeat_interleave(3, dim=1),
        condition=batch.condition,
    )
    assert relative_error(clipped(model, repeated, engine=engine), clipped(model, batch, engine=engine)) < 1e-5


@pytest.mark.parametrize(("kind", "engine"), MODELS)
@pytest.mark.parametrize("max_physical_batch_size", [1, 3, 6, 7, 20, 21])
def test_the_memory_limit_does_not_change_the_sum(kind, engine, max_physical_batch_size):
    model, batch = build(kind), draw_batch(kind, 7, 3)
    whole = clipped(model, batch, engine=engine)
    parts = clipped(model, batch, engine=engine, max_physical_batch_size=max_physical_batch_size)
    assert relative_error(parts, whole) < 1e-6


def test_the_memory_limit_counts_draws_as_well_as_examples(monkeypatch):
    from rapid_dist.privacy import clipping

    sizes = []
    run = clipping.ENGINES["linear"]
    monkeypatch.setitem(
        clipping.ENGINES, "linear", lambda model, part, norm: sizes.append(part.x_t.shape[:2]) or run(model, part, norm)
    )
    clipped(build("residual_mlp"), draw_batch("residual_mlp", 7, 3), max_physical_batch_size=6)
    assert [tuple(s) for s in sizes] == [(2, 3), (2, 3), (2, 3), (1, 3)]


@pytest.mark.parametrize(("kind", "engine"), MODELS)
def test_an_empty_batch_gives_zeros_for_every_parameter(kind, engine):
    model = build(kind)
    total = clipped(model, draw_batch(kind, 0, 3), engine=engine)
    assert total.shape == (sum(p.numel() for p in model.parameters()),)
    assert (total == 0).all()


@pytest.mark.parametrize(("kind", "engine"), MODELS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("field", ["x_t", "noise", "condition"])
def test_an_example_without_a_finite_gradient_counts_as_exactly_nothing(kind, engine, bad, field):
    model, batch = build(kind), draw_batch(kind, 5, 2)
    poisoned = with_row(batch, 2, **{field: bad})
    total = clipped(model, poisoned, engine=engine)
    assert torch.isfinite(total).all()
    alone = clipped(model, poisoned.part(2, 3), engine=engine)
    assert torch.isfinite(alone).all()
    if torch.isfinite(gradients_one_by_one(model, poisoned)[2].float()).all():
        assert alone.norm() <= 1 + 1e-6
    else:
        assert (alone == 0).all()
        assert relative_error(total, clipped(model, without_row(batch, 2), engine=engine)) < 1e-6


@pytest.mark.parametrize(("kind", "engine"), MODELS)
def test_one_bad_draw_among_good_ones_drops_the_whole_example(kind, engine):
    model, batch = build(kind), draw_batch(kind, 5, 3)
    noise = batch.noise.clone()
    noise[2, 1] = float("nan")
    total = clipped(model, replace(batch, noise=noise), engine=engine)
    assert relative_error(total, clipped(model, without_row(batch, 2), engine=engine)) < 1e-6


HARMFUL = {
    "ordinary": {},
    "huge target": {"noise": 1e15},
    "huge input": {"x_t": 1e10},
    "overflowing": {"noise": 1e30},
    "zero": {"x_t": 0.0, "noise": 0.0, "condition": 0.0},
    "nan": {"x_t": float("nan")},
    "infinite": {"noise": float("inf")},
}


@pytest.mark.parametrize(("kind", "engine"), MODELS)
@pytest.mark.parametrize("harm", HARMFUL)
@pytest.mark.parametrize("max_grad_norm", [1e-3, 1.0])
def test_adding_or_removing_a_record_moves_the_sum_by_at_most_the_clip(kind, engine, harm, max_grad_norm):
    model, batch = build(kind), with_row(draw_batch(kind, 6, 3), 4, **HARMFUL[harm])
    with_it = clipped(model, batch, engine=engine, max_grad_norm=max_grad_norm)
    without = clipped(model, without_row(batch, 4), engine=engine, max_grad_norm=max_grad_norm)
    assert (with_it - without).norm() <= max_grad_norm * (1 + 1e-6)


@pytest.mark.parametrize(("kind", "engine"), MODELS)
def test_a_duplicate_of_a_record_adds_what_the_record_adds(kind, engine):
    model, batch = build(kind), draw_batch(kind, 6, 3)
    doubled = PrivateBatch(
        **{f: torch.cat([getattr(batch, f), getattr(batch, f)[4:5]]) for f in ("x_t", "noise", "timestep", "condition")}
    )
    difference = clipped(model, doubled, engine=engine) - clipped(model, batch, engine=engine)
    assert difference.norm() <= 1 + 1e-6
    assert relative_error(difference, clipped(model, batch.part(4, 5), engine=engine)) < 1e-5


@pytest.mark.parametrize(("kind", "engine"), MODELS)
@pytest.mark.parametrize("size", [1e4, 1e5, 1e6])
def test_huge_draws_that_cancel_within_a_record_stay_below_the_clip(kind, engine, size):
    """Gradients of 2 draws, each of norm ~ size, with a difference of ~ 100 clips: only the difference is left."""
    model, worst = build(kind), 0.0
    for seed in range(20):
        batch = draw_batch(kind, 1, 1, seed=seed)
        with torch.no_grad():
            predicted = model(batch.x_t[:, 0], batch.timestep[:, 0], batch.condition)[:, None]
        direction = torch.randn(predicted.shape, generator=generator(seed + 100))
        rest = 3e-5 * size * torch.randn(predicted.shape, generator=generator(seed + 200))
        twice = PrivateBatch(
            x_t=batch.x_t.repeat_interleave(2, dim=1),
            noise=torch.cat([predicted + size * direction, predicted - size * direction + rest], dim=1),
            timestep=batch.timestep.repeat_interleave(2, dim=1),
            condition=batch.condition,
        )
        worst = max(worst, clipped(model, twice, engine=engine).norm().item())
    assert worst <= 1.001


def test_a_factor_is_the_clip_over_the_norm_and_never_above_one():
    factors = clip_factors(torch.tensor([0.0, 0.25, 1.0, 4.0, 1e30, float("inf"), float("nan")]), 1.0)
    assert factors.dtype == torch.float64
    assert factors.tolist() == [1.0, 1.0, 1.0, 0.5, pytest.approx(1e-15, rel=1e-6), 0.0, 0.0]


class OneLinear(nn.Module):
    """A model with one Linear layer and, if asked, something else."""

    def __init__(self, extra: nn.Module | None = None):
        super().__init__()
        self.layer, self.extra = nn.Linear(4, 4), extra
        init_parameters(self, generator(0))

    def forward(self, x_t, timestep, condition):
        x = self.layer(x_t)
        return x if self.extra is None else self.extra(x)


def flat_batch() -> PrivateBatch:
    g = generator(0)
    return PrivateBatch(
        x_t=torch.randn(3, 2, 4, generator=g),
        noise=torch.randn(3, 2, 4, generator=g),
        timestep=torch.zeros(3, 2, dtype=torch.int64),
        condition=torch.zeros(3, 0),
    )


def test_the_engine_is_chosen_by_what_the_parameters_belong_to():
    assert choose_engine(build("residual_mlp")) == "linear"
    assert choose_engine(build("unet")) == "vmap"
    assert choose_engine(OneLinear()) == "linear"
    assert choose_engine(OneLinear(nn.LayerNorm(4))) == "vmap"


def test_a_model_with_a_free_parameter_is_not_for_the_linear_engine():
    model = OneLinear()
    model.gain = nn.Parameter(torch.ones(1))
    assert choose_engine(model) == "vmap"


def test_a_linear_layer_used_twice_is_refused_by_the_linear_engine_and_leaves_no_hooks():
    model = OneLinear()
    model.extra = model.layer
    with pytest.raises(RuntimeError, match="used twice"):
        clipped(model, flat_batch(), engine="linear")
    assert not model.layer._forward_hooks
    expected = clip_rows(gradients_one_by_one(model, flat_batch()), 1.0).sum(0)
    assert relative_error(clipped(model, flat_batch(), engine="vmap"), expected) < 1e-5


def test_weights_shared_by_two_layers_are_still_clipped_as_one():
    """Two layers with one weight tensor: the sum must be that of one example at a time, or refused."""
    model = OneLinear(nn.Linear(4, 4))
    model.extra.weight = model.layer.weight
    batch = replace(flat_batch(), noise=50 * flat_batch().noise)
    try:
        total = clipped(model, batch)
    except RuntimeError:
        return
    assert relative_error(total, clip_rows(gradients_one_by_one(model, batch), 1.0).sum(0)) < 1e-5


def test_clipping_leaves_the_model_as_it_was():
    model = build("residual_mlp")
    before = copy.deepcopy(model.state_dict())
    clipped(model, draw_batch("residual_mlp", 3, 2))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
