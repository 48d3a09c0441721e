"""The bound on one record's part when the caller asks for low precision: autocast, TF32, bfloat16 parameters."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy import clipping
from tests.privacy.nets import ENGINES, UNET, build, clipped, draw_batch, relative_error

ROUNDING = 1e-6
aten = torch.ops.aten
MULTIPLYING = (aten.mm, aten.bmm, aten.addmm, aten.mv, aten.dot, aten.convolution, aten.convolution_backward)


class OwnAutocast(nn.Module):
    """A model that saves time by itself, whatever its caller does."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(*inputs)


class TensorFloat32(TorchDispatchMode):
    """A device that rounds what it multiplies to TF32 when torch's settings allow it, as CUDA devices do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        multiplies = func.overloadpacket in MULTIPLYING
        if multiplies and torch.get_float32_matmul_precision() != "highest":
            args = [_ten_bits(a) if isinstance(a, torch.Tensor) and a.dtype == torch.float32 else a for a in args]
        return func(*args, **(kwargs or {}))


def _ten_bits(values: torch.Tensor) -> torch.Tensor:
    """The nearest number with TF32's 10 bits after the point."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@contextlib.contextmanager
def tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with TensorFloat32():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def bfloat16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@contextlib.contextmanager
def both():
    with bfloat16(), tf32():
        yield


# The precision that is asked for: what wraps the model, what wraps the call.
LOWERED = {
    "autocast around the call": (lambda model: model, bfloat16),
    "a model that opens autocast": (OwnAutocast, contextlib.nullcontext),
    "products of matrices in TF32": (lambda model: model, tf32),
    "all of them": (OwnAutocast, both),
}
WITH_UNET = ("all of them", *UNET)
CASES = [*((how, kind, engine) for how in LOWERED for kind, engine in ENGINES), WITH_UNET]
NAMES = ("how", "kind", "engine")


@pytest.mark.parametrize(NAMES, CASES)
def test_a_huge_record_stays_below_the_clip_in_low_precision(how, kind, engine):
    wrap, lowered = LOWERED[how]
    max_grad_norm = 1e-3 if how.startswith("a") else 1.0
    model, worst = wrap(build(kind)), 0.0
    with lowered():
        for seed in range(3 if kind == "unet" else 8):
            alone = draw_batch(kind, 1, 3, seed=seed).changed(slice(None), target=10.0 ** (2 + seed % 5))
            worst = max(worst, clipped(model, alone, engine=engine, max_grad_norm=max_grad_norm).norm().item())
    assert worst <= max_grad_norm * (1 + ROUNDING)
    assert worst > max_grad_norm * 0.99


@pytest.mark.parametrize(NAMES, CASES)
def test_adding_a_record_moves_the_sum_by_at_most_the_clip_in_low_precision(how, kind, engine):
    wrap, lowered = LOWERED[how]
    model, moved = wrap(build(kind)), []
    size = 40 if how == "all of them" else 6
    with lowered():
        for seed in range(1 if kind == "unet" else 4):
            batch = draw_batch(kind, size, 3, seed=seed)
            batch = batch.changed(batch.rows_of(4), target=1e4)
            both = [clipped(model, b, engine=engine) for b in (batch, batch.without(4))]
            moved.append((both[0] - both[1]).norm().item())
    assert max(moved) <= 1 + size * 2.0**-23  # each record adds a rounding of the float32 sum


@pytest.mark.parametrize(NAMES, CASES)
def test_low_precision_costs_accuracy_of_gradients_and_nothing_else(how, kind, engine):
    wrap, lowered = LOWERED[how]
    model, batch = build(kind), draw_batch(kind, 7, 3)
    exact = clipped(model, batch, engine=engine)
    with lowered():
        low = clipped(wrap(model), batch, engine=engine)
        in_parts = clipped(wrap(model), batch, engine=engine, max_physical_batch_size=6)
    assert low.dtype == torch.float64
    assert 0 < relative_error(low, exact) < 0.05
    assert relative_error(in_parts, low) < 1e-5


@pytest.mark.parametrize(("kind", "engine"), ENGINES)
def test_the_model_runs_in_the_precision_of_its_caller_and_the_clipping_does_not(kind, engine, monkeypatch):
    seen = {}

    def settings():
        return torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()

    class Watched(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *inputs):
            seen["model"] = settings()
            return self.inner(*inputs)

    def watched_factors(squared_norms, max_grad_norm):
        seen["clipping"] = (*settings(), squared_norms.dtype)
        return factors_fn(squared_norms, max_grad_norm)

    factors_fn = clipping.clip_factors
    monkeypatch.setattr(clipping, "clip_factors", watched_factors)
    with both():
        clipped(Watched(build(kind)), draw_batch(kind, 3, 2), engine=engine)
        seen["caller"] = settings()
    assert seen["model"] == seen["caller"] == (True, "medium")
    assert seen["clipping"] == (False, "highest", torch.float64)


def test_settings_are_restored_when_clipping_fails(monkeypatch):
    def failing(squared_norms, max_grad_norm):
        raise KeyboardInterrupt

    monkeypatch.setattr(clipping, "clip_factors", failing)
    with both():
        for kind, engine in ENGINES:
            with pytest.raises(KeyboardInterrupt):
                clipped(build(kind), draw_batch(kind, 3, 2), engine=engine)
            assert torch.is_autocast_enabled("cpu")
            assert torch.get_float32_matmul_precision() == "medium"
    assert not torch.is_autocast_enabled("cpu")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "engine"), ENGINES)
def test_a_model_with_parameters_of_less_than_float32_is_refused(kind, engine, dtype):
    model = build(kind)
    next(iter(model.children())).to(dtype)
    with pytest.raises(PrivacyError, match=rf"parameter \S+ is {dtype}; expected float32"):
        clipped(model, draw_batch(kind, 3, 2), engine=engine)


@pytest.mark.parametrize(("kind", "engine"), ENGINES)
def test_a_factor_is_never_larger_in_the_sum_than_where_it_was_computed(kind, engine, monkeypatch):
    """Factors just below a value of float32: rounded to the nearest, a record would have more than the clip."""
    used = []
    just_below = float(torch.tensor(0.7, dtype=torch.float32)) - 1e-12
    monkeypatch.setattr(
        clipping, "clip_factors", lambda squared, norm: torch.full_like(squared, just_below, dtype=torch.float64)
    )

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            multiplied = args if func.overloadpacket in (aten.mul, aten.mm, aten.mv) else ()
            for a in multiplied:
                if isinstance(a, torch.Tensor) and a.numel() == 3:
                    near = a.double().flatten()
                    used.extend(near[(near - just_below).abs() < 1e-6].tolist())
            return func(*args, **(kwargs or {}))

    with Watch():
        clipped(build(kind), draw_batch(kind, 3, 1), engine=engine)
    assert used
    assert max(used) <= just_below
