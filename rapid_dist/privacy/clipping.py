"""Per-example clipping: two engines that return the same sum of clipped gradients, chosen by what the model is made of.

An example's loss is the mean over its K noise draws, taken before clipping, so several draws of one record are
still one record (noise multiplicity, DPDM, Dockhorn et al. 2023). Gradients are summed, never averaged.

A model may run in the precision its caller likes. What comes out of it is taken to float32 once, and norms and sum are
computed from those very values in full precision (privacy.precision): a norm of one value and a sum of its rounding
would leave a record more than the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from rapid_dist.diffusion.process import loss_per_example
from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.precision import FULL, at_least_float32, full_precision, rounded_towards_zero


@dataclass(frozen=True, kw_only=True)
class PrivateBatch:
    """The examples of one step on one worker, B of them (B may be 0), each with K noise draws.

    x_t, noise: (B, K, ...) float32; timestep: (B, K) int64; condition: (B, num_conditions) float32.
    """

    x_t: torch.Tensor
    noise: torch.Tensor
    timestep: torch.Tensor
    condition: torch.Tensor

    def __len__(self) -> int:
        return len(self.x_t)

    def part(self, start: int, stop: int) -> PrivateBatch:
        return PrivateBatch(
            x_t=self.x_t[start:stop],
            noise=self.noise[start:stop],
            timestep=self.timestep[start:stop],
            condition=self.condition[start:stop],
        )


def clip_factors(squared_norms: torch.Tensor, max_grad_norm: float) -> torch.Tensor:
    """Returns what each example's gradient is multiplied by: min(1, C / norm), zero where the norm is not finite.

    Args:
        squared_norms: (B,) squared L2 norms of the gradients.
        max_grad_norm: C, the L2 norm that each is clipped to.

    Returns:
        (B,) float64.

    Guarantee: a factor times its gradient has L2 norm at most C, and a NaN or infinite gradient counts as zero.
    """
    norms = squared_norms.double().sqrt()
    factors = (max_grad_norm / norms.clamp(min=1e-300)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def _weights(factors: torch.Tensor, gradients: Iterable[torch.Tensor]) -> dict[torch.dtype, torch.Tensor]:
    """The factors in each type of the gradients they multiply, none of them rounded up."""
    return {dtype: rounded_towards_zero(factors, dtype) for dtype in {g.dtype for g in gradients}}


def _zero_non_finite(rows: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Rows of examples with factor zero become zero, since 0 * NaN would be NaN. rows: (B, ...)."""
    if bool((factors > 0).all()):  # the usual case; the copy would change nothing
        return rows
    return torch.where((factors > 0).reshape(-1, *[1] * (rows.dim() - 1)), rows, torch.zeros_like(rows))


def _vmap_engine(model: nn.Module, batch: PrivateBatch, max_grad_norm: float) -> list[torch.Tensor]:
    """Any model: one gradient per example by vmap(grad); memory grows with B times the parameters."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def example_loss(
        params: dict[str, torch.Tensor],
        x_t: torch.Tensor,
        noise: torch.Tensor,
        timestep: torch.Tensor,
        condition: torch.Tensor,
    ) -> torch.Tensor:
        conditions = condition.expand(len(x_t), -1)
        predicted = functional_call(model, (params, buffers), (x_t, timestep, conditions))
        return loss_per_example(predicted, noise).mean()

    per_example = vmap(grad(example_loss), in_dims=(None, 0, 0, 0, 0))
    found = per_example(parameters, batch.x_t, batch.noise, batch.timestep, batch.condition)
    with full_precision(batch.x_t.device.type):
        gradients = [at_least_float32(g) for g in found.values()]
        squared = sum(g.double().flatten(1).square().sum(1) for g in gradients)
        factors = clip_factors(squared, max_grad_norm)
        weights = _weights(factors, gradients)
        return [torch.tensordot(weights[g.dtype], _zero_non_finite(g, factors), dims=1) for g in gradients]


class _Tape:
    """Inputs and outputs of every Linear layer in one forward pass; a layer may be used once."""

    def __init__(self, model: nn.Module):
        self.inputs: dict[nn.Linear, torch.Tensor] = {}
        self.outputs: dict[nn.Linear, torch.Tensor] = {}
        self._handles = [m.register_forward_hook(self._record) for m in model.modules() if isinstance(m, nn.Linear)]

    def _record(self, layer: nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if layer in self.inputs:
            raise RuntimeError("a Linear layer is used twice in one forward pass; use the vmap engine for this model")
        self.inputs[layer], self.outputs[layer] = inputs[0].detach(), output

    def __enter__(self) -> _Tape:
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()


def _linear_engine(model: nn.Module, batch: PrivateBatch, max_grad_norm: float) -> list[torch.Tensor]:
    """Models whose parameters all belong to Linear layers used once: exact norms from activations, one backward pass.

    A layer's gradient for an example is sum_k g_k a_k^T / K, so its squared norm is
    sum_kl (g_k . g_l)(a_k . a_l) / K^2: two K x K Gram matrices (Goodfellow 2015, extended to K draws).
    """
    size, draws = batch.timestep.shape
    with _Tape(model) as tape:
        flat = batch.x_t.flatten(0, 1)
        condition = batch.condition.repeat_interleave(draws, dim=0)
        predicted = model(flat, batch.timestep.flatten(), condition)
        # Dividing by K here makes the sum over an example's rows its mean over draws.
        loss = loss_per_example(predicted, batch.noise.flatten(0, 1)).sum() / draws
        layers = list(tape.outputs)
        output_gradients = torch.autograd.grad(loss, [tape.outputs[layer] for layer in layers])
    with full_precision(flat.device.type):
        pairs = {
            layer: [at_least_float32(t).reshape(size, draws, -1) for t in (g, tape.inputs[layer])]
            for layer, g in zip(layers, output_gradients, strict=True)
        }
        return _clip_pairs(model, pairs, max_grad_norm)


def _clip_pairs(
    model: nn.Module, pairs: dict[nn.Linear, list[torch.Tensor]], max_grad_norm: float
) -> list[torch.Tensor]:
    """The sums of clipped gradients from each layer's output gradients and inputs, both (B, K, width)."""
    gradients = [g for g, _ in pairs.values()]
    size, draws, _ = gradients[0].shape
    squared = torch.zeros(size, dtype=torch.float64, device=gradients[0].device)
    spread = torch.zeros_like(squared)
    for layer, (g, a) in pairs.items():
        g, a = g.double(), a.double()
        gram = torch.bmm(a, a.mT) + (layer.bias is not None)
        squared += (torch.bmm(g, g.mT) * gram).sum((1, 2))
        lengths = g.square().sum(2).sqrt() * gram.diagonal(dim1=1, dim2=2).sqrt()
        spread += lengths.sum(1).square()
    # The sum below is float32: draws that cancel leave a rounding error of their own size, which must count too.
    norms = squared.clamp(min=0).sqrt() + draws * 2.0**-22 * spread.sqrt()
    factors = clip_factors(norms.square(), max_grad_norm)
    sums: dict[nn.Parameter, torch.Tensor] = {}
    weights = _weights(factors, gradients)
    for layer, (g, a) in pairs.items():
        g = _zero_non_finite(g, factors) * weights[g.dtype][:, None, None]
        a = _zero_non_finite(a, factors)
        g, a = g.flatten(0, 1), a.flatten(0, 1)
        sums[layer.weight] = g.T @ a
        if layer.bias is not None:
            sums[layer.bias] = g.sum(0)
    return [sums[p] for p in model.parameters()]


ENGINES: dict[str, Callable[[nn.Module, PrivateBatch, float], list[torch.Tensor]]] = {
    "vmap": _vmap_engine,
    "linear": _linear_engine,
}


def choose_engine(model: nn.Module) -> str:
    """`linear` when every parameter belongs to one Linear layer and no other, else `vmap`."""
    owned = [id(p) for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters(recurse=False)]
    is_shared = len(set(owned)) < len(owned)
    return "linear" if not is_shared and {id(p) for p in model.parameters()} == set(owned) else "vmap"


def _require_full_precision(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if p.dtype not in FULL:
            raise PrivacyError(
                f"parameter {name} is {p.dtype}; expected float32, since its released gradient would be rounded to "
                "that. To save time, open torch.autocast around the model's own forward pass instead"
            )


def clipped_gradient_sum(
    model: nn.Module,
    batch: PrivateBatch,
    *,
    max_grad_norm: float,
    max_physical_batch_size: int,
    engine: str | None = None,
) -> torch.Tensor:
    """Sums the batch's per-example gradients, each clipped to max_grad_norm.

    Args:
        model: The network; its parameters are float32 or float64.
        batch: The examples of one step on this worker; it may be empty.
        max_grad_norm: The L2 norm that each example's gradient is clipped to.
        max_physical_batch_size: Examples times draws in memory at once; it changes nothing else.
        engine: One of ENGINES; None chooses by what the model is made of.

    Returns:
        (num_parameters,) float64, zeros for an empty batch; private until noise is added.

    Raises:
        PrivacyError: The model's parameters are held in less than float32.

    Guarantee: adding or removing one example moves the result by at most max_grad_norm in L2 norm (to the rounding of
    float32), whatever autocast, TF32 or other settings of precision are on. They reach the model's own forward and
    backward pass alone. There an example's gradient must be a function of that example; where kernels round otherwise
    in another micro-batch, it is one to the model's own precision only.
    """
    _require_full_precision(model)
    run = ENGINES[engine or choose_engine(model)]
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64, device=batch.x_t.device)
    part = max(1, max_physical_batch_size // max(1, batch.timestep.shape[1]))
    for start in range(0, len(batch), part):
        sums = run(model, batch.part(start, start + part), max_grad_norm)
        total += torch.cat([s.detach().reshape(-1) for s in sums]).double()
    return total
