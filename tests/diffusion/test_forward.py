import math

import pytest
import torch

from rapid_dist.diffusion.process import (
    OBJECTIVES,
    add_noise,
    estimate_x0,
    loss_per_example,
    make_alphas_cumprod,
    noise_towards,
    value_timestep,
)
from rapid_dist.specs import ScheduleSpec

SCHEDULE = ScheduleSpec(num_train_timesteps=100, split_step=60, query_step=80)
ALPHAS = make_alphas_cumprod(SCHEDULE)
SHAPES = [(3,), (1, 4, 4), (2, 3, 5)]


def draw(*shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def timesteps(n: int) -> torch.Tensor:
    return torch.arange(n) * 99 // (n - 1)


def test_a_noised_value_is_the_formula_term_by_term():
    x0, noise, t = draw(4, 2, 3), draw(4, 2, 3, seed=1), timesteps(4)
    x_t = add_noise(x0, t, noise, ALPHAS)
    for i in range(4):
        a = ALPHAS[t[i]].item()
        for j in range(2):
            for k in range(3):
                expected = math.sqrt(a) * x0[i, j, k].item() + math.sqrt(1 - a) * noise[i, j, k].item()
                assert x_t[i, j, k].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_of_x0_undoes_the_forward_process(shape):
    x0, noise, t = draw(7, *shape), draw(7, *shape, seed=1), timesteps(7)
    torch.testing.assert_close(estimate_x0(add_noise(x0, t, noise, ALPHAS), t, noise, ALPHAS), x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_noise_towards_a_state_is_the_noise_that_made_it(shape):
    x0, noise, t = draw(7, *shape), draw(7, *shape, seed=1), timesteps(7)
    back = noise_towards(x0, t, add_noise(x0, t, noise, ALPHAS), ALPHAS)
    torch.testing.assert_close(back, noise, rtol=0, atol=1e-10)


def test_float32_states_stay_float32():
    x = draw(3, 2, dtype=torch.float32)
    for fn in (add_noise, estimate_x0, noise_towards):
        assert fn(x, timesteps(3), x, ALPHAS).dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_the_surrogate_noise_leads_back_to_exactly_the_retrieved_latent(shape):
    x0, retrieved, fresh = draw(5, *shape), draw(5, *shape, seed=1), draw(5, *shape, seed=2)
    value_t = value_timestep(SCHEDULE)
    noise = OBJECTIVES["surrogate"](x0, fresh, retrieved, value_t, ALPHAS)
    x_v = add_noise(x0, torch.full((5,), value_t), noise, ALPHAS)
    torch.testing.assert_close(x_v, retrieved, rtol=0, atol=1e-10)


def test_the_surrogate_path_starts_at_the_example():
    """At the cleanest timestep the state is nearly the example, whatever was retrieved."""
    x0, retrieved = draw(5, 3), draw(5, 3, seed=1)
    noise = OBJECTIVES["surrogate"](x0, None, retrieved, value_timestep(SCHEDULE), ALPHAS)
    x_0 = add_noise(x0, torch.zeros(5, dtype=torch.int64), noise, ALPHAS)
    torch.testing.assert_close(x_0, x0, rtol=0, atol=0.1)


def test_the_denoise_objective_is_the_fresh_noise():
    fresh = draw(5, 3, seed=2)
    assert OBJECTIVES["denoise"](draw(5, 3), fresh, None, 59, ALPHAS) is fresh


def test_the_surrogate_of_one_example_does_not_touch_another():
    x0, retrieved = draw(5, 3), draw(5, 3, seed=1)
    before = OBJECTIVES["surrogate"](x0, None, retrieved, 59, ALPHAS)
    x0[2], retrieved[2] = 7.0, -7.0
    after = OBJECTIVES["surrogate"](x0, None, retrieved, 59, ALPHAS)
    others = [0, 1, 3, 4]
    assert torch.equal(after[others], before[others])


def test_the_loss_is_the_mean_square_within_each_example():
    predicted = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert loss_per_example(predicted, torch.zeros(2, 2, 2)).tolist() == [7.5, 1.0]
