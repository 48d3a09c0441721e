import math

import pytest
import torch
import torch.nn.functional as F

from rapid_dist.models.extractor import Extractor, contrastive_loss
from rapid_dist.specs import ExtractorSpec

SHAPE = (2, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(seed=0):
    return Extractor(ExtractorSpec(feature_dim=4, width=8), latent_shape=SHAPE, generator=generator(seed))


def latents(n=6, seed=1):
    return torch.randn(n, *SHAPE, generator=generator(seed))


@torch.no_grad()
@pytest.mark.parametrize("head", ["forward", "projected"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_features_have_unit_norm_and_do_not_depend_on_other_rows(head, mode):
    model = getattr(build(), mode)()
    x0 = latents()
    before = getattr(model, head)(x0)
    assert before.shape == (6, 4)
    torch.testing.assert_close(before.norm(dim=1), torch.ones(6))
    x0[2] = 1e4
    after = getattr(model, head)(x0)
    assert torch.equal(after[[0, 1, 3, 4, 5]], before[[0, 1, 3, 4, 5]])
    assert not torch.equal(after[2], before[2])


def test_weights_are_a_function_of_the_generator():
    first, same, other = (torch.cat([p.flatten() for p in build(s).parameters()]) for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def brute_force(first, second, temperature):
    """SimCLR, Eq. 1, term by term in float64."""
    rows = torch.cat([first, second]).double()
    n, total = len(first), 0.0
    for i in range(2 * n):
        positive = math.exp((rows[i] @ rows[(i + n) % (2 * n)]).item() / temperature)
        everything = sum(math.exp((rows[i] @ rows[j]).item() / temperature) for j in range(2 * n) if j != i)
        total -= math.log(positive / everything)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_contrastive_loss_is_equation_1(temperature):
    first, second = (F.normalize(torch.randn(5, 4, generator=generator(s)), dim=1) for s in (0, 1))
    loss = contrastive_loss(first, second, temperature)
    assert loss.item() == pytest.approx(brute_force(first, second, temperature), rel=1e-5)


def test_views_that_agree_cost_less_than_views_that_do_not():
    first = F.normalize(torch.randn(8, 4, generator=generator()), dim=1)
    assert contrastive_loss(first, first, 0.2) < contrastive_loss(first, first.roll(1, 0), 0.2)


def test_the_contrastive_loss_has_a_finite_gradient():
    model = build()
    loss = contrastive_loss(model.projected(latents()), model.projected(latents(seed=2)), 0.2)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert all(g.abs().max() > 0 for g in gradients)
