import numpy as np
import pytest
import torch

from rapid_dist.diffusion.process import make_alphas_cumprod, value_timestep
from rapid_dist.errors import InputError
from rapid_dist.knowledge_base.trajectory import keys_of_latents, rows_of_ids, trajectory_noise, values_of_latents
from rapid_dist.specs import ScheduleSpec

SHAPE, NUM_CONDITIONS = (2, 3), 4
SCHEDULE = ScheduleSpec(num_train_timesteps=50, split_step=30, query_step=40)
ALPHAS = make_alphas_cumprod(SCHEDULE)


class Recorder:
    """A denoiser that notes what it was asked and predicts a given noise."""

    def __init__(self, predicted):
        self.predicted, self.asked = predicted, []

    def __call__(self, x_t, timestep, condition):
        self.asked.append((x_t.clone(), timestep.clone(), condition.clone()))
        return self.predicted(x_t)


def draw(n=5, seed=0):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def keys(latent, noise, denoiser, extract=lambda x0: x0.flatten(1)):
    return keys_of_latents(
        latent,
        noise,
        denoiser=denoiser,
        extract=extract,
        schedule=SCHEDULE,
        alphas_cumprod=ALPHAS,
        num_conditions=NUM_CONDITIONS,
    )


def test_a_perfect_denoiser_makes_the_key_of_the_latent_itself():
    latent, noise = draw(), draw(seed=1)
    torch.testing.assert_close(keys(latent, noise, lambda *_: noise), latent.flatten(1))


def test_the_public_model_is_asked_once_at_the_query_step_and_never_with_a_class():
    latent, noise = draw(), draw(seed=1)
    denoiser = Recorder(lambda x: 0 * x)
    keys(latent, noise, denoiser)
    ((x_t, timestep, condition),) = denoiser.asked
    a = ALPHAS[40]
    torch.testing.assert_close(x_t, (a.sqrt() * latent + (1 - a).sqrt() * noise).float())
    assert timestep.tolist() == [40] * 5
    assert torch.equal(condition, torch.zeros(5, NUM_CONDITIONS))


def test_a_key_is_a_function_of_its_own_row():
    def per_row(x_t, _timestep, _condition):
        return torch.sin(3 * x_t)

    latent, noise = draw(), draw(seed=1)
    before = keys(latent, noise, per_row)
    latent[2], noise[3] = 9.0, -9.0
    after = keys(latent, noise, per_row)
    assert torch.equal(after[[0, 1, 4]], before[[0, 1, 4]])
    assert not torch.equal(after[2], before[2])
    assert not torch.equal(after[3], before[3])


def test_a_value_is_the_same_forward_path_where_the_private_model_takes_over():
    latent, noise = draw(), draw(seed=1)
    values = values_of_latents(latent, noise, schedule=SCHEDULE, alphas_cumprod=ALPHAS)
    a = ALPHAS[29]
    assert value_timestep(SCHEDULE) == 29
    torch.testing.assert_close(values, (a.sqrt() * latent + (1 - a).sqrt() * noise).float())


@pytest.mark.parametrize("num_items", [0, 1, 4])
def test_the_noise_of_a_trajectory_follows_its_id(num_items):
    ids = np.array([9, 2, 7, 4])[:num_items]
    noise = trajectory_noise(3, ids, SHAPE)
    assert noise.shape == (num_items, *SHAPE)
    assert noise.dtype == torch.float32
    for i, item in enumerate(ids):
        assert torch.equal(noise[i], trajectory_noise(3, np.array([item]), SHAPE)[0])
    assert not torch.equal(noise, trajectory_noise(4, ids, SHAPE)) or num_items == 0


def test_rows_follow_their_ids_into_another_order():
    rng = np.random.default_rng(0)
    ids = rng.permutation(1000)[:300]
    wanted = rng.permutation(ids)
    np.testing.assert_array_equal(ids[rows_of_ids(ids, wanted)], wanted)


@pytest.mark.parametrize(
    ("ids", "wanted"), [([1, 2], [1, 3]), ([1, 2], [1]), ([1, 1], [1, 1]), ([1], [1, 1]), ([], [4])]
)
def test_rows_of_other_ids_are_refused(ids, wanted):
    with pytest.raises(InputError, match="the same ids, each once"):
        rows_of_ids(np.array(ids, dtype=np.int64), np.array(wanted, dtype=np.int64))
