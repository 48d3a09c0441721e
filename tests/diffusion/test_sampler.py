"""For data that are N(m, s^2) the best noise prediction is known, so what the sampler must draw is known too."""

import math

import pytest
import torch
from scipy.stats import kstest, norm

from rapid_dist.diffusion.process import full_timesteps, make_alphas_cumprod
from rapid_dist.diffusion.sampler import evaluations_per_step, predict_noise, run_ddim
from rapid_dist.specs import ScheduleSpec

SCHEDULE = ScheduleSpec(num_train_timesteps=1000, split_step=700, query_step=800)
ALPHAS = make_alphas_cumprod(SCHEDULE)
MEAN, STD = 2.0, 0.5
NO_CLASS = torch.zeros(20_000, 0)


def optimal_noise(x_t, t, _condition):
    """E[noise | x_t] when x0 ~ N(MEAN, STD^2): x_t and the noise are jointly Gaussian."""
    a = ALPHAS[t].reshape(-1, *[1] * (x_t.dim() - 1))
    variance = a * STD**2 + 1 - a
    return ((1 - a).sqrt() * (x_t - a.sqrt() * MEAN) / variance).to(x_t.dtype)


def draw(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(*, eta: float, num_steps: int = 100, num_samples: int = 20_000, denoiser=optimal_noise) -> torch.Tensor:
    timesteps = full_timesteps(SCHEDULE, num_steps)
    step_noise = draw(num_samples, len(timesteps) - 1, 1, seed=1) if eta else None
    return run_ddim(
        denoiser,
        draw(num_samples, 1),
        timesteps,
        alphas_cumprod=ALPHAS,
        condition=NO_CLASS[:num_samples],
        eta=eta,
        step_noise=step_noise,
    ).flatten()


def exact_moments(eta: float, num_steps: int = 100) -> tuple[float, float]:
    """Mean and variance after the sampler, by the affine recursion that Eq. 12 is for this prediction."""
    timesteps = full_timesteps(SCHEDULE, num_steps)
    levels = [ALPHAS[t].item() for t in timesteps]
    mean, variance = 0.0, 1.0
    for a, b in zip(levels, [*levels[1:], 1.0], strict=True):
        sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        gain = math.sqrt(1 - a) / (a * STD**2 + 1 - a)
        clean, noisy = math.sqrt(b / a), math.sqrt(1 - b - sigma**2)
        slope = clean * (1 - math.sqrt(1 - a) * gain) + noisy * gain
        shift = math.sqrt(a) * MEAN * gain * (clean * math.sqrt(1 - a) - noisy)
        mean, variance = slope * mean + shift, slope**2 * variance + sigma**2
    return mean, variance


def fits(x0: torch.Tensor, mean: float, variance: float) -> bool:
    """Whether mean and variance of the samples are within 4 standard errors."""
    n = len(x0)
    return abs(x0.mean().item() - mean) < 4 * math.sqrt(variance / n) and abs(
        x0.var().item() / variance - 1
    ) < 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_what_is_drawn_has_exactly_the_moments_of_the_recursion(eta):
    x0 = sample(eta=eta)
    assert fits(x0, *exact_moments(eta))
    assert kstest((x0 - x0.mean()) / x0.std(), norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_many_steps_map_noise_to_the_data_distribution(eta):
    x0 = sample(eta=eta, num_steps=1000, num_samples=4000)
    assert x0.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(4000))
    assert x0.std().item() == pytest.approx(STD, rel=4 / math.sqrt(2 * 4000))


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.97, 1.03])
def test_a_wrong_noise_prediction_is_seen_in_what_is_drawn(eta, scale):
    def wrong(x_t, t, condition):
        return scale * optimal_noise(x_t, t, condition)

    assert not fits(sample(eta=eta, denoiser=wrong), *exact_moments(eta))


def test_more_steps_come_nearer_to_the_data_distribution():
    """Without step noise the map is affine, so its slope is the standard deviation without sampling error."""
    errors = []
    for num_steps in (20, 100, 500):
        ends = run_ddim(
            optimal_noise,
            torch.tensor([[0.0], [1.0]], dtype=torch.float64),
            full_timesteps(SCHEDULE, num_steps),
            alphas_cumprod=ALPHAS,
            condition=NO_CLASS[:2],
        )
        errors.append(abs((ends[1] - ends[0]).item() - STD))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.005


def test_one_step_is_the_estimate_of_x0():
    x_t = draw(5, 3)
    x0 = run_ddim(lambda x, t, c: 0 * x + 0.5, x_t, [400], alphas_cumprod=ALPHAS, condition=NO_CLASS[:5])
    a = ALPHAS[400]
    torch.testing.assert_close(x0, (x_t - (1 - a).sqrt() * 0.5) / a.sqrt())


def test_two_steps_are_equation_12_by_hand():
    x_t, z, eta = draw(4, 3), draw(4, 1, 3, seed=1), 0.7
    e1, e2 = 0.3, -0.2

    def denoiser(x, t, c):
        return torch.full_like(x, e1 if t[0] == 500 else e2)

    a, b = ALPHAS[500].item(), ALPHAS[100].item()
    sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
    x0 = (x_t - math.sqrt(1 - a) * e1) / math.sqrt(a)
    x_next = math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * e1 + sigma * z[:, 0]
    expected = (x_next - math.sqrt(1 - b) * e2) / math.sqrt(b)
    actual = run_ddim(denoiser, x_t, [500, 100], alphas_cumprod=ALPHAS, condition=NO_CLASS[:4], eta=eta, step_noise=z)
    torch.testing.assert_close(actual, expected)


def test_the_true_noise_leads_straight_back_to_x0_whatever_the_steps():
    x0, noise = draw(6, 2), draw(6, 2, seed=1)
    a = ALPHAS[699]
    for timesteps in ([699, 0], [699, 400, 20, 0], [699]):
        back = run_ddim(
            lambda x, t, c: noise,
            a.sqrt() * x0 + (1 - a).sqrt() * noise,
            timesteps,
            alphas_cumprod=ALPHAS,
            condition=NO_CLASS[:6],
        )
        torch.testing.assert_close(back, x0)


def test_estimates_are_clipped_when_asked():
    x_t = 100 * draw(50, 2)
    x0 = run_ddim(
        lambda x, t, c: 0 * x, x_t, [700, 300, 0], alphas_cumprod=ALPHAS, condition=NO_CLASS[:50], clip_x0=1.0
    )
    assert x0.abs().max() == 1.0


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_guidance_moves_away_from_the_prediction_without_a_class(guidance):
    calls = []

    def denoiser(x, t, condition):
        calls.append(condition)
        return x * (1 + condition.sum(1, keepdim=True)) + t[:, None]

    x_t, condition = draw(3, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    got = predict_noise(denoiser, x_t, 7, condition, guidance)
    with_class, without = x_t * (1 + condition.sum(1, keepdim=True)) + 7, x_t + 7
    torch.testing.assert_close(got, (1 + guidance) * with_class - guidance * without)
    assert len(calls) == evaluations_per_step(guidance) == (1 if guidance == 0 else 2)


def test_the_denoiser_is_called_once_a_timestep_with_that_timestep():
    seen = []

    def denoiser(x, t, condition):
        seen.append(t.tolist())
        return 0 * x

    run_ddim(denoiser, draw(2, 1), [9, 5, 0], alphas_cumprod=ALPHAS, condition=NO_CLASS[:2])
    assert seen == [[9, 9], [5, 5], [0, 0]]
