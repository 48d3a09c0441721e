"""Per-example clipping: engines that return the same sum of clipped gradients of a loss, chosen by the model.

A loss function says what is trained: loss_fn(model, *tensors) returns one loss a row. K rows may belong to one example,
such as noise draws or augmentations. An example's loss is then the mean over its K rows, taken before clipping, so that
several draws of one record are still one record (noise multiplicity, DPDM, Dockhorn et al. 2023). Gradients are summed,
never averaged.

A model may run in the precision its caller likes. What comes out of it is taken to float32 once, and norms and sum are
computed from those very values in full precision (privacy.precision): a norm of one value and a sum of its rounding
would leave a record more than the clip.

The part of two records in the sum of a classifier's gradients, each of at most the clip:

>>> import torch
>>> from torch.nn.functional import cross_entropy
>>> classifier = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
>>> def loss_fn(model, features, labels):
...     return cross_entropy(model(features), labels, reduction="none")
>>> records = (torch.randn(2, 4), torch.tensor([0, 2]))
>>> total = clipped_gradient_sum(loss_fn, classifier, records, max_grad_norm=0.1)
>>> total.shape, bool(total.norm() <= 2 * 0.1 + 1e-6)
(torch.Size([67]), True)
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.precision import FULL, at_least_float32, full_precision, rounded_towards_zero

AUTO = "auto"
LossFn = Callable[..., torch.Tensor]
Tensors = tuple[torch.Tensor, ...]
# loss_fn, model, tensors, rows_per_example, max_grad_norm -> the sum for each trainable parameter, in their order.
Engine = Callable[[LossFn, nn.Module, Tensors, int, float], list[torch.Tensor]]


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that require gradients, by name, in the model's order: what a sum is made of."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def row_losses(loss_fn: LossFn, model: nn.Module, tensors: Tensors) -> torch.Tensor:
    """Returns the loss of each row, (R,).

    Raises:
        SpecError: The loss function returned something else than one loss a row.
    """
    losses = loss_fn(model, *tensors)
    if losses.dim() != 1 or len(losses) != len(tensors[0]):
        raise SpecError(
            f"the loss function returned a tensor of {losses.dim()} dimensions that is not one loss a row; expected "
            "the shape (rows,): average over all dimensions but the first (reduction='none' in torch's own losses)"
        )
    return losses


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


def _sum_clipped(gradients: list[torch.Tensor], max_grad_norm: float) -> list[torch.Tensor]:
    """The sums of clipped gradients from one tensor (B, *shape) a parameter, in float32 or float64.

    To be called within full_precision.
    """
    squared = sum(g.double().flatten(1).square().sum(1) for g in gradients)
    factors = clip_factors(squared, max_grad_norm)
    weights = _weights(factors, gradients)
    return [torch.tensordot(weights[g.dtype], _zero_non_finite(g, factors), dims=1) for g in gradients]


class _ExampleLoss(nn.Module):
    """The mean loss of one example's rows, with the model inside so that functional_call finds its parameters."""

    def __init__(self, loss_fn: LossFn, model: nn.Module):
        super().__init__()
        self.model, self._loss = model, partial(row_losses, loss_fn, model)

    def forward(self, *rows: torch.Tensor) -> torch.Tensor:
        return self._loss(rows).mean()


def _vmap_engine(
    loss_fn: LossFn, model: nn.Module, tensors: Tensors, rows_per_example: int, max_grad_norm: float
) -> list[torch.Tensor]:
    """Any model: one gradient per example by vmap(grad); memory grows with B times the parameters."""
    loss = _ExampleLoss(loss_fn, model)
    parameters = {f"model.{name}": p.detach() for name, p in trainable_parameters(model).items()}

    def example_loss(values: dict[str, torch.Tensor], *rows: torch.Tensor) -> torch.Tensor:
        return functional_call(loss, values, rows)

    per_example = vmap(grad(example_loss), in_dims=(None, *[0] * len(tensors)))
    found = per_example(parameters, *(t.unflatten(0, (-1, rows_per_example)) for t in tensors))
    with full_precision(tensors[0].device.type):
        return _sum_clipped([at_least_float32(g) for g in found.values()], max_grad_norm)


class _Tape:
    """Inputs and outputs of every Linear layer in one forward pass over a batch; a layer may be used once."""

    def __init__(self, model: nn.Module, rows: int):
        self.inputs: dict[nn.Linear, torch.Tensor] = {}
        self.outputs: dict[nn.Linear, torch.Tensor] = {}
        self._rows = rows
        self._handles = [m.register_forward_hook(self._record) for m in model.modules() if isinstance(m, nn.Linear)]

    def _record(self, layer: nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if layer in self.inputs:
            raise SpecError("a Linear layer is used twice in one forward pass; use the vmap engine for this model")
        # With tokens, (rows, T, width) and (T, rows, width) could not be told apart where T is the number of rows.
        if inputs[0].dim() != 2 or len(inputs[0]) != self._rows:
            raise SpecError(
                "a Linear layer has another input than one vector for each row of the batch; use the vmap engine for "
                "this model"
            )
        self.inputs[layer], self.outputs[layer] = inputs[0].detach(), output

    def __enter__(self) -> _Tape:
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()


def _linear_engine(
    loss_fn: LossFn, model: nn.Module, tensors: Tensors, rows_per_example: int, max_grad_norm: float
) -> list[torch.Tensor]:
    """Models whose parameters all belong to Linear layers used once: exact norms from activations, one backward pass.

    A layer's gradient for an example is sum_k g_k a_k^T / K, so its squared norm is
    sum_kl (g_k . g_l)(a_k . a_l) / K^2: two K x K Gram matrices (Goodfellow 2015, extended to K rows).
    """
    with _Tape(model, len(tensors[0])) as tape:
        # Dividing by K here makes the sum over an example's rows its mean over them.
        loss = row_losses(loss_fn, model, tensors).sum() / rows_per_example
        layers = list(tape.outputs)
        output_gradients = torch.autograd.grad(loss, [tape.outputs[layer] for layer in layers], allow_unused=True)
    with full_precision(tensors[0].device.type):
        pairs = {
            layer: [at_least_float32(t).unflatten(0, (-1, rows_per_example)) for t in (g, tape.inputs[layer])]
            for layer, g in zip(layers, output_gradients, strict=True)
            if g is not None
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
    return [sums[p] if p in sums else torch.zeros_like(p) for p in model.parameters()]


def _opacus_engine(
    loss_fn: LossFn, model: nn.Module, tensors: Tensors, rows_per_example: int, max_grad_norm: float
) -> list[torch.Tensor]:
    """What Opacus's GradSampleModule takes: one gradient a row by its hooks, folded into examples. The reference.

    Memory grows with rows times the parameters. The hooks are on a copy, so nothing of them stays on the model.
    """
    hooked = _with_hooks(copy.deepcopy(model))
    with warnings.catch_warnings():
        # torch says so of every layer whose inputs are data; Opacus needs the gradients of outputs alone.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        row_losses(loss_fn, hooked, tensors).sum().backward()
    with full_precision(tensors[0].device.type):
        folded = []
        for p in trainable_parameters(hooked).values():
            per_row = p.new_zeros((len(tensors[0]), *p.shape)) if p.grad_sample is None else p.grad_sample
            p.grad_sample = None
            folded.append(at_least_float32(per_row).unflatten(0, (-1, rows_per_example)).mean(1))
        return _sum_clipped(folded, max_grad_norm)


def _with_hooks(model: nn.Module) -> nn.Module:
    """The model itself with Opacus's hooks on it.

    Raises:
        SpecError: Opacus cannot take the model, or would count a layer twice.
    """
    from opacus.grad_sample import GradSampleModule

    owners = [m for _, m in model.named_modules(remove_duplicate=False) if any(True for _ in m.parameters(False))]
    if len(owners) > len(set(owners)):
        raise SpecError("a layer has two places in the model, where Opacus counts it twice; use the vmap engine")
    if not all(m.training for m in owners):
        raise SpecError("a layer is not in training mode, where Opacus passes it by; call model.train()")
    try:
        GradSampleModule(model, loss_reduction="sum")
    except NotImplementedError as error:
        raise SpecError(f"Opacus cannot take the model; use the vmap engine: {error}") from None
    return model


ENGINES: dict[str, Engine] = {"vmap": _vmap_engine, "linear": _linear_engine, "opacus": _opacus_engine}


def _is_all_linear(model: nn.Module) -> bool:
    """Whether every parameter is trainable and belongs to one Linear layer and no other."""
    owned = [id(p) for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters(recurse=False)]
    is_shared = len(set(owned)) < len(owned)
    whole = list(model.parameters())
    return not is_shared and {id(p) for p in whole} == set(owned) and all(p.requires_grad for p in whole)


def choose_engine(model: nn.Module, engine: str = AUTO) -> str:
    """Returns the engine to use for a model.

    Args:
        model: The network.
        engine: A name of ENGINES, which is returned; `auto` is `linear` when every parameter belongs to one Linear
            layer and no other, else `vmap`.

    Raises:
        SpecError: The engine is unknown, or cannot take the model.
    """
    if engine == AUTO:
        return "linear" if _is_all_linear(model) else "vmap"
    if engine not in ENGINES:
        raise SpecError(f"the clipping engine is {engine!r}; expected one of {', '.join((AUTO, *ENGINES))}")
    if engine == "linear" and not _is_all_linear(model):
        raise SpecError(
            "the clipping engine is 'linear' but the model has parameters outside of Linear layers, shared or frozen "
            "ones; use auto or vmap"
        )
    return engine


def _require_full_precision(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if p.dtype not in FULL:
            raise PrivacyError(
                f"parameter {name} is {p.dtype}; expected float32, since its released gradient would be rounded to "
                "that. To save time, open torch.autocast around the model's own forward pass instead"
            )


def clipped_gradient_sum(
    loss_fn: LossFn,
    model: nn.Module,
    examples: Tensors,
    *,
    max_grad_norm: float,
    rows_per_example: int = 1,
    max_physical_batch_size: int = 1024,
    engine: str = AUTO,
) -> torch.Tensor:
    """Sums the per-example gradients of a loss, each clipped to max_grad_norm.

    Args:
        loss_fn: loss_fn(model, *tensors) -> (R,), the loss of each row of the tensors, a function of that row alone.
        model: The network; its parameters are float32 or float64. Those that require gradients are summed over.
        examples: Tensors of B * rows_per_example rows each, those of one example next to each other; B may be 0.
        max_grad_norm: The L2 norm that each example's gradient is clipped to.
        rows_per_example: K, how many rows an example has; its loss is the mean over them.
        max_physical_batch_size: Rows in memory at once; it changes nothing else.
        engine: One of ENGINES, or `auto`, which chooses by what the model is made of.

    Returns:
        (num_parameters,) float64 in the order of model.parameters(), zeros for an empty batch; private until noise is
        added.

    Raises:
        PrivacyError: The model's parameters are held in less than float32.
        SpecError: The tensors, the loss or the engine do not fit. privacy.check_network looks at all that beforehand.

    Guarantee: adding or removing one example moves the result by at most max_grad_norm in L2 norm (to the rounding of
    float32), whatever autocast, TF32 or other settings of precision are on. They reach the model's own forward and
    backward pass alone. There an example's gradient must be a function of that example; where kernels round otherwise
    in another micro-batch, it is one to the model's own precision only.
    """
    _require_full_precision(model)
    run = ENGINES[choose_engine(model, engine)]
    # How many rows there are is private, so that no message says it.
    if len({len(t) for t in examples}) != 1 or len(examples[0]) % rows_per_example:
        raise SpecError(f"examples must be tensors of equally many rows, {rows_per_example} of them for each example")
    size = sum(p.numel() for p in trainable_parameters(model).values())
    total = torch.zeros(size, dtype=torch.float64, device=examples[0].device)
    part = rows_per_example * max(1, max_physical_batch_size // rows_per_example)
    for start in range(0, len(examples[0]), part):
        rows = tuple(t[start : start + part] for t in examples)
        sums = run(loss_fn, model, rows, rows_per_example, max_grad_norm)
        total += torch.cat([s.detach().reshape(-1) for s in sums]).double()
    return total
