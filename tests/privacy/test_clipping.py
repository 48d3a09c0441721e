"""Each engine against one example at a time in float64, and what one record may do to the sum."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from rapid_dist.errors import SpecError
from rapid_dist.privacy.clipping import clip_factors, clipped_gradient_sum
from tests.privacy.nets import (
    ENGINES,
    UNET,
    build,
    clip_rows,
    clipped,
    draw_batch,
    generator,
    gradients_one_by_one,
    loss_of,
    relative_error,
    squared_error,
)

NAMES = ("kind", "engine")
ALL = [*ENGINES, UNET]


@pytest.mark.parametrize(
    (*NAMES, "draws", "max_grad_norm"),
    [
        *((*row, *setting) for row in ENGINES for setting in ((1, 0.05), (3, None), (3, 1e6))),
        *(("residual_mlp", engine, 3, None) for engine in ("linear", "vmap", "opacus")),
        *(("unet", engine, 3, None) for engine in ("vmap", "opacus")),
    ],
)
def test_the_sum_equals_clipping_one_example_at_a_time(kind, engine, draws, max_grad_norm):
    """max_grad_norm: None is the median of the norms, so that half of the examples are clipped."""
    model, batch = build(kind), draw_batch(kind, 7, draws)
    rows = gradients_one_by_one(model, batch)
    clip = max_grad_norm or rows.norm(dim=1).median().item()
    actual = clipped(model, batch, engine=engine, max_grad_norm=clip)
    assert actual.dtype == torch.float64
    assert relative_error(actual, clip_rows(rows, clip).sum(0)) < 1e-5


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_batches_have_clipped_and_unclipped_examples(kind):
    norms = gradients_one_by_one(build(kind), draw_batch(kind, 7, 3)).norm(dim=1)
    assert norms.min() < 0.9
    assert norms.max() > 1.5


@pytest.mark.parametrize((*NAMES, "draws"), [*((*row, draws) for row in ENGINES for draws in (1, 8)), (*UNET, 2)])
def test_several_draws_of_one_record_count_as_one_record(kind, engine, draws):
    batch = draw_batch(kind, 1, draws)
    batch = batch.changed(slice(None), target=100 * batch.tensors[1])
    total = clipped(build(kind), batch, engine=engine, max_grad_norm=0.1)
    assert 0.1 * (1 - 1e-5) < total.norm() <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize(NAMES, ALL)
def test_equal_draws_of_a_record_are_worth_one_draw(kind, engine):
    model, batch = build(kind), draw_batch(kind, 4, 1)
    repeated = replace(batch, tensors=tuple(t.repeat_interleave(3, dim=0) for t in batch.tensors), draws=3)
    assert relative_error(clipped(model, repeated, engine=engine), clipped(model, batch, engine=engine)) < 1e-5


@pytest.mark.parametrize((*NAMES, "limit"), [*((*row, limit) for row in ENGINES for limit in (1, 7, 20)), (*UNET, 7)])
def test_the_memory_limit_does_not_change_the_sum(kind, engine, limit):
    model, batch = build(kind), draw_batch(kind, 7, 3)
    parts = clipped(model, batch, engine=engine, max_physical_batch_size=limit)
    assert relative_error(parts, clipped(model, batch, engine=engine)) < 1e-6


def test_the_memory_limit_counts_rows_and_never_parts_an_example(monkeypatch):
    from rapid_dist.privacy import clipping

    sizes = []
    run = clipping.ENGINES["linear"]

    def watched(loss_fn, model, tensors, *settings):
        sizes.append([len(t) for t in tensors])
        return run(loss_fn, model, tensors, *settings)

    monkeypatch.setitem(clipping.ENGINES, "linear", watched)
    clipped(build("mlp"), draw_batch("mlp", 7, 3), max_physical_batch_size=8)
    clipped(build("mlp"), draw_batch("mlp", 1, 3), max_physical_batch_size=1)
    assert sizes == [[6, 6], [6, 6], [6, 6], [3, 3], [3, 3]]


@pytest.mark.parametrize(NAMES, ALL)
def test_an_empty_batch_gives_zeros_for_every_parameter(kind, engine):
    model = build(kind)
    total = clipped(model, draw_batch(kind, 0, 3), engine=engine)
    assert total.shape == (sum(p.numel() for p in model.parameters()),)
    assert (total == 0).all()


BAD = [("x", float("nan")), ("target", float("inf")), ("x", -float("inf")), ("target", 3e38)]


@pytest.mark.parametrize(
    (*NAMES, "field", "bad"), [*((*row, *bad) for row in ENGINES for bad in BAD), (*UNET, "condition", float("nan"))]
)
def test_an_example_without_a_finite_gradient_counts_as_exactly_nothing(kind, engine, field, bad):
    model, batch = build(kind), draw_batch(kind, 5, 2)
    poisoned = batch.changed(batch.rows_of(2), **{field: bad})
    total = clipped(model, poisoned, engine=engine)
    assert torch.isfinite(total).all()
    alone = clipped(model, poisoned.take([2]), engine=engine)
    assert torch.isfinite(alone).all()
    if torch.isfinite(gradients_one_by_one(model, poisoned)[2].float()).all():
        assert alone.norm() <= 1 + 1e-6
    else:
        assert (alone == 0).all()
        assert relative_error(total, clipped(model, batch.without(2), engine=engine)) < 1e-6


@pytest.mark.parametrize(NAMES, ALL)
def test_one_bad_draw_among_good_ones_drops_the_whole_example(kind, engine):
    model, batch = build(kind), draw_batch(kind, 5, 3)
    total = clipped(model, batch.changed(2 * 3 + 1, target=float("nan")), engine=engine)
    assert relative_error(total, clipped(model, batch.without(2), engine=engine)) < 1e-6


# What a record may hold, and the clip.
HARMFUL = {
    "ordinary": ({}, 1e-3),
    "huge target": ({"target": 1e15}, 1.0),
    "huge input": ({"x": 1e10}, 1e-3),
    "overflowing": ({"target": 1e30}, 1.0),
    "zero": ({"x": 0.0, "target": 0.0}, 1.0),
    "nan": ({"x": float("nan")}, 1.0),
    "infinite": ({"target": float("inf")}, 1e-3),
}


@pytest.mark.parametrize(
    (*NAMES, "harm"), [*((*row, harm) for row in ENGINES for harm in HARMFUL), (*UNET, "ordinary")]
)
def test_adding_or_removing_a_record_moves_the_sum_by_at_most_the_clip(kind, engine, harm):
    values, max_grad_norm = HARMFUL[harm]
    model, batch = build(kind), draw_batch(kind, 6, 3)
    batch = batch.changed(batch.rows_of(4), **values)
    with_it = clipped(model, batch, engine=engine, max_grad_norm=max_grad_norm)
    without = clipped(model, batch.without(4), engine=engine, max_grad_norm=max_grad_norm)
    assert (with_it - without).norm() <= max_grad_norm * (1 + 1e-6)


@pytest.mark.parametrize(NAMES, ALL)
def test_a_duplicate_of_a_record_adds_what_the_record_adds(kind, engine):
    model, batch = build(kind), draw_batch(kind, 6, 3)
    doubled = batch.take([*range(6), 4])
    difference = clipped(model, doubled, engine=engine) - clipped(model, batch, engine=engine)
    assert difference.norm() <= 1 + 1e-6
    assert relative_error(difference, clipped(model, batch.take([4]), engine=engine)) < 1e-5


@pytest.mark.parametrize(
    (*NAMES, "size", "tries"), [*((*row, size, 20) for row in ENGINES for size in (1e4, 1e5, 1e6)), (*UNET, 1e6, 4)]
)
def test_huge_draws_that_cancel_within_a_record_stay_below_the_clip(kind, engine, size, tries):
    """Gradients of 2 draws, each of norm ~ size, with a difference of ~ 100 clips: only the difference is left."""
    model, worst = build(kind), 0.0
    for seed in range(tries):
        x, _, *others = draw_batch(kind, 1, 1, seed=seed).tensors
        with torch.no_grad():
            predicted = model(x, *others)
        direction = torch.randn(predicted.shape, generator=generator(seed + 100))
        rest = 3e-5 * size * torch.randn(predicted.shape, generator=generator(seed + 200))
        targets = torch.cat([predicted + size * direction, predicted - size * direction + rest])
        inputs, *twice = (t.repeat_interleave(2, dim=0) for t in (x, *others))
        batch = replace(draw_batch(kind, 1, 2), tensors=(inputs, targets, *twice))
        worst = max(worst, clipped(model, batch, engine=engine).norm().item())
    assert worst <= 1.001


def test_a_factor_is_the_clip_over_the_norm_and_never_above_one():
    factors = clip_factors(torch.tensor([0.0, 0.25, 1.0, 4.0, 1e30, float("inf"), float("nan")]), 1.0)
    assert factors.dtype == torch.float64
    assert factors.tolist() == [1.0, 1.0, 1.0, 0.5, pytest.approx(1e-15, rel=1e-6), 0.0, 0.0]


@pytest.mark.parametrize(NAMES, ENGINES)
def test_parameters_that_are_not_trained_are_left_out(kind, engine):
    model, batch = build(kind), draw_batch(kind, 4, 2)
    frozen = next(model.parameters())
    expected = gradients_one_by_one(model, batch)[:, frozen.numel() :]
    frozen.requires_grad_(False)
    if engine == "linear":
        with pytest.raises(SpecError, match="frozen"):
            clipped(model, batch, engine=engine)
        engine = "auto"
    assert relative_error(clipped(model, batch, engine=engine), clip_rows(expected, 1.0).sum(0)) < 1e-5


@pytest.mark.parametrize(NAMES, ENGINES)
@pytest.mark.parametrize("reduce", [lambda loss: loss.mean(), lambda loss: loss[:1], lambda loss: loss[:, None]])
def test_a_loss_that_is_not_one_a_row_is_refused(kind, engine, reduce):
    batch = draw_batch(kind, 4, 3)
    with pytest.raises(SpecError, match="not one loss a row"):
        clipped_gradient_sum(
            lambda model, *tensors: reduce(squared_error(model, *tensors)),
            build(kind),
            batch.tensors,
            rows_per_example=3,
            max_grad_norm=1.0,
            engine=engine,
        )


def test_tensors_that_do_not_hold_whole_examples_are_refused_without_their_number():
    x, target = draw_batch("mlp", 7, 1).tensors
    for tensors, rows in (((x, target), 2), ((x, target[:6]), 1)):
        with pytest.raises(SpecError, match="equally many rows") as caught:
            clipped_gradient_sum(squared_error, build("mlp"), tensors, rows_per_example=rows, max_grad_norm=1.0)
        assert "7" not in str(caught.value)


@pytest.mark.parametrize(NAMES, ENGINES)
def test_clipping_leaves_the_model_as_it_was(kind, engine):
    model = build(kind)
    before = copy.deepcopy(model.state_dict())
    names = [set(vars(m)) for m in model.modules()]
    clipped(model, draw_batch(kind, 3, 2), engine=engine)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert [set(vars(m)) for m in model.modules()] == names
    assert loss_of(kind)(model, *draw_batch(kind, 3, 2).tensors).requires_grad
