"""Starts drawn from released statistics: the right distribution at the split, a function of the sample's index."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rapid_dist.diffusion.process import make_alphas_cumprod
from rapid_dist.privacy.statistics import ClassGaussians
from rapid_dist.sampling.starts import draw_starts
from rapid_dist.specs import RunSpec

MEAN, SCALE = np.array([[0.5, -1.0], [2.0, 0.0]]), np.array([0.5, 1.5])
GAUSSIANS = ClassGaussians(
    count=np.ones(2), share=np.ones((2, 1)), mean=MEAN, factor=np.stack([np.eye(2) * s for s in SCALE]), clip_norm=100.0
)


def spec_of(split_step):
    return RunSpec(
        data={"private": "p", "public": "q", "num_classes": 2},
        privacy={"target_epsilon": 1, "target_delta": 1e-5, "sample_rate": 0.1, "nominal_size": 1000},
        schedule={"num_train_timesteps": 100, "split_step": split_step, "query_step": 90},
        statistics={"noise_multiplier": 4.0},
        training={"steps": 0 if split_step == 0 else 5},
        sampling={"starts": "statistics"},
    )


def starts(split_step, index, label):
    spec = spec_of(split_step)
    models = SimpleNamespace(latent_shape=(2,), alphas_cumprod=make_alphas_cumprod(spec.schedule))
    return draw_starts(spec, models, GAUSSIANS, index, label, device="cpu"), models.alphas_cumprod


@pytest.mark.parametrize("split_step", [0, 1, 60])
def test_starts_have_the_mean_and_spread_of_their_class_at_the_noise_level_of_the_split(split_step):
    index = np.arange(8000)
    label = index % 2
    drawn, alphas = starts(split_step, index, label)
    level = 1.0 if split_step == 0 else float(alphas[split_step - 1])
    for c in range(2):
        mine = drawn[torch.from_numpy(label == c)].double().numpy()
        expected = np.sqrt(level * SCALE[c] ** 2 + 1 - level)
        np.testing.assert_allclose(mine.mean(0), np.sqrt(level) * MEAN[c], atol=4 * expected / np.sqrt(4000))
        np.testing.assert_allclose(mine.std(0), expected, rtol=0.05)
        assert abs(np.corrcoef(mine.T)[0, 1]) < 0.07


def test_a_start_is_a_function_of_its_index_and_class():
    index, label = np.arange(20), np.arange(20) % 2
    together, _ = starts(60, index, label)
    alone, _ = starts(60, index[7:9], label[7:9])
    torch.testing.assert_close(together[7:9], alone, rtol=0, atol=0)
