"""Whether a network may be trained privately: no row's loss may depend on the other rows of its batch.

Clipping bounds what one example adds to a sum of gradients. Where a network mixes rows, as BatchNorm does, an example
changes the gradients of others too, and the bound is lost. Layers that are known to do so are named by Opacus's
ModuleValidator. What a network's own code does is tried out on a few made-up rows.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from rapid_dist.errors import RapidDistError, SpecError
from rapid_dist.privacy.clipping import (
    AUTO,
    ENGINES,
    LossFn,
    Tensors,
    choose_engine,
    clip_factors,
    row_losses,
    trainable_parameters,
)

# Losses are compared within batches of one shape, where kernels round nearly alike.
_LOSS_TOLERANCE = 1e-4
# Sums of gradients by two engines differ by the rounding of float32 over a whole network.
_GRADIENT_TOLERANCE = 1e-3
_MOVE = 0.1


def check_network(loss_fn: LossFn, model: nn.Module, examples: Tensors, *, engine: str = AUTO) -> None:
    """Refuses a network whose rows mix, or that a clipping engine cannot take; the network itself is left alone.

    Args:
        loss_fn: As for clipped_gradient_sum: loss_fn(model, *tensors) -> (R,).
        model: The network, in the mode that it will be trained in.
        examples: Made-up tensors of the shapes and ranges that training will see, with R >= 3 rows that differ.
        engine: A name of clipping.ENGINES, or `auto`.

    Raises:
        SpecError: A layer mixes examples or keeps statistics of them; the loss of a row depends on other rows, or on
            chance; the engine is unknown, cannot take the network, or finds other gradients than autograd.

    Guarantee: a network passes only if the first and the last of the rows keep their loss whatever the others are.
    """
    _require_valid_layers(model)
    moved = _moved(model)
    _require_separate_rows(loss_fn, moved, examples)
    _require_engine(loss_fn, moved, examples, choose_engine(model, engine))


def _require_valid_layers(model: nn.Module) -> None:
    """Raises SpecError with what Opacus says of the first layer that it does not allow."""
    from opacus.validators import ModuleValidator

    faults = ModuleValidator.validate(model, strict=False)
    if faults:
        raise SpecError(
            f"the network cannot be trained privately: {str(faults[0]).split('. ')[0]}; replace the layer, as "
            "opacus.validators.ModuleValidator.fix(network) does (BatchNorm by GroupNorm)"
        )


def _moved(model: nn.Module) -> nn.Module:
    """A copy with every weight moved, since layers that start at zero would hide what lies behind them."""
    moved, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_((_MOVE * torch.randn(p.shape, generator=generator)).to(p))
    return moved


def _require_separate_rows(loss_fn: LossFn, model: nn.Module, examples: Tensors) -> None:
    def losses_of(rows: Tensors) -> torch.Tensor:
        with torch.no_grad():
            return row_losses(loss_fn, model, rows)

    losses = losses_of(examples)
    if not torch.isfinite(losses).all():
        raise SpecError("the loss of the network is not finite on made-up rows; expected a finite loss")
    if not torch.equal(losses, losses_of(examples)):
        raise SpecError(
            "the loss of a row changes from one forward pass of the network to the next; leave out dropout and "
            "whatever else draws random numbers or keeps state there"
        )
    for row in (0, len(losses) - 1):
        for rows in (_repeated(examples, row), _poisoned(examples, row)):
            if not torch.isclose(losses_of(rows)[row], losses[row], rtol=_LOSS_TOLERANCE, atol=1e-12):
                raise SpecError(
                    "the network mixes examples: the loss of a row changes with the other rows of its batch, so "
                    "clipping would not bound what one example does; normalise and attend within each row only "
                    "(GroupNorm or LayerNorm), and combine no rows of the batch"
                )


def _repeated(examples: Tensors, row: int) -> Tensors:
    """The row in place of every other one: values that occur, of whole numbers too."""
    return tuple(t[row : row + 1].expand_as(t).clone() for t in examples)


def _poisoned(examples: Tensors, row: int) -> Tensors:
    """NaN in place of every number of the other rows, which no factor however small hides, not even zero."""
    found = []
    for t in examples:
        others = t.clone()
        if t.is_floating_point():
            others[torch.arange(len(t), device=t.device) != row] = torch.nan
        found.append(others)
    return tuple(found)


def _require_engine(loss_fn: LossFn, model: nn.Module, examples: Tensors, engine: str) -> None:
    """Raises SpecError unless the engine clips what autograd finds for each row.

    So an engine is refused that takes something else than rows for examples, or counts a layer twice.
    """
    if engine == "vmap":  # autograd itself, one example at a time
        return
    parameters = list(trainable_parameters(model).values())
    rows = []
    for row in range(len(examples[0])):
        loss = row_losses(loss_fn, model, tuple(t[row : row + 1] for t in examples)).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    gradients = torch.stack(rows).double()
    clip = float(gradients.norm(dim=1).sort().values[:2].mean())  # one row is not clipped, which shows its length
    expected = clip_factors(gradients.square().sum(1), clip) @ gradients
    try:
        actual = torch.cat([g.flatten() for g in ENGINES[engine](loss_fn, model, examples, 1, clip)])
    except RapidDistError:
        raise
    except Exception as error:  # the network itself just ran, so this is the engine's
        raise SpecError(
            f"the clipping engine {engine!r} cannot take this network: {type(error).__name__}: {error}; use the engine "
            "vmap, which takes any network"
        ) from error
    if not (actual - expected).norm() <= _GRADIENT_TOLERANCE * expected.norm():
        raise SpecError(
            f"the clipping engine {engine!r} finds other gradients of this network than autograd does; use the engine "
            "vmap, which takes any network"
        )
