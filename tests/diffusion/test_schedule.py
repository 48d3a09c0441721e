import itertools
import math
from dataclasses import replace

import pytest
import torch

from rapid_dist.diffusion.process import (
    full_timesteps,
    make_alphas_cumprod,
    private_timesteps,
    public_timesteps,
    value_timestep,
)
from rapid_dist.specs import ScheduleSpec

SPEC = ScheduleSpec(num_train_timesteps=1000, split_step=700, query_step=800)


def test_the_linear_schedule_is_the_product_of_one_minus_rising_betas():
    spec = ScheduleSpec(num_train_timesteps=5, beta_start=0.1, beta_end=0.5, split_step=2, query_step=3)
    product, expected = 1.0, []
    for beta in (0.1, 0.2, 0.3, 0.4, 0.5):
        product *= 1 - beta
        expected.append(product)
    a = make_alphas_cumprod(spec)
    assert a.dtype == torch.float64
    assert a.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_cosine_schedule_is_the_closed_form_wherever_no_beta_is_capped():
    """alphas_cumprod[t] = f(t + 1) / f(0) with f(t) = cos^2 of Eq. 17, since the product telescopes."""
    total = 50
    a = make_alphas_cumprod(replace(SPEC, kind="cosine", num_train_timesteps=total, split_step=20, query_step=30))

    def f(t):
        return math.cos((t / total + 0.008) / 1.008 * math.pi / 2) ** 2

    assert a[:-1].tolist() == pytest.approx([f(t + 1) / f(0) for t in range(total - 1)], rel=1e-10)
    assert a[-1].item() == pytest.approx(a[-2].item() * 0.001, rel=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("total", [2, 10, 1000])
def test_alphas_cumprod_falls_strictly_between_one_and_zero(kind, total):
    spec = ScheduleSpec(kind=kind, num_train_timesteps=total, split_step=total, query_step=0)
    a = make_alphas_cumprod(spec)
    assert a.shape == (total,)
    assert (a[1:] < a[:-1]).all()
    assert 0 < a[-1] < a[0] < 1


def test_a_value_has_the_noisiest_level_the_private_model_is_trained_on():
    assert value_timestep(SPEC) == 699


GRIDS = [
    (total, split, query, num_steps)
    for total, split, query in ((1000, 700, 800), (1000, 998, 999), (1000, 1, 2), (100, 50, 99), (10, 3, 9), (7, 1, 2))
    for num_steps in (1, 2, 3, 5, 10, 50, 100, 1000, 5000)
]


@pytest.mark.parametrize(("total", "split", "query", "num_steps"), GRIDS)
def test_public_timesteps_fall_from_the_last_to_the_query_step_and_no_further(total, split, query, num_steps):
    spec = ScheduleSpec(num_train_timesteps=total, split_step=split, query_step=query)
    grid = public_timesteps(spec, num_steps)
    assert grid[0] == total - 1
    assert grid[-1] == query
    assert all(a > b for a, b in itertools.pairwise(grid))
    assert len(grid) <= max(2, math.ceil(num_steps * (total - query) / total))


@pytest.mark.parametrize(("total", "split", "query", "num_steps"), GRIDS)
def test_private_timesteps_fall_within_what_the_private_model_was_trained_on(total, split, query, num_steps):
    spec = ScheduleSpec(num_train_timesteps=total, split_step=split, query_step=query)
    grid = private_timesteps(spec, num_steps)
    assert grid[0] == split - 1
    assert all(a > b for a, b in itertools.pairwise(grid))
    assert all(0 <= t < split for t in grid)
    if len(grid) > 1:
        assert grid[-1] == 0
    assert len(grid) <= max(1, math.ceil(num_steps * split / total))


def test_full_timesteps_walk_everything_at_an_even_pace():
    assert full_timesteps(SPEC, 1000) == list(range(999, -1, -1))
    assert full_timesteps(replace(SPEC, num_train_timesteps=901), 4) == [900, 600, 300, 0]


def test_the_two_parts_take_their_share_of_a_full_run():
    assert len(public_timesteps(SPEC, 100)) == 20
    assert len(private_timesteps(SPEC, 100)) == 70
    assert len(full_timesteps(SPEC, 100)) == 100


def test_without_retrieval_the_private_run_is_a_full_run():
    spec = replace(SPEC, split_step=1000)
    assert private_timesteps(spec, 30) == full_timesteps(spec, 30)
