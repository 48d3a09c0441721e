import math

import pytest
import torch

from rapid_dist.privacy.plan import OneWorker
from rapid_dist.storage.store import Store
from rapid_dist.training.public import train_publicly
from rapid_dist.training.state import CheckpointFolder, TrainState
from tests.training.helpers import returned, run_workers

STEPS = 12


def make_state() -> TrainState:
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape))
    return TrainState(model, learning_rate=0.05, ema_decay=0.9)


def data(step: int, rank: int = 0):
    g = torch.Generator().manual_seed(1000 * step + rank)
    x = torch.randn(8, 3, generator=g)
    return x, x @ torch.tensor([[1.0, 2.0], [0.0, -1.0], [0.5, 0.5]])


def loss_of(state: TrainState, *, rank: int = 0):
    def loss(step: int) -> torch.Tensor:
        x, y = data(step, rank)
        return (state.model(x) - y).square().mean()

    return loss


def run(state, folder, *, steps=STEPS, collective=None, loss=None, **kwargs):
    train_publicly(
        state,
        loss or loss_of(state),
        steps=steps,
        collective=collective or OneWorker(),
        checkpoints=folder,
        checkpoint_every=4,
        **kwargs,
    )
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


@pytest.fixture
def folder(tmp_path) -> CheckpointFolder:
    return CheckpointFolder(Store(tmp_path / "one"))


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_with_the_same_batch_make_the_same_weights_as_one(folder, tmp_path, world_size):
    alone = run(make_state(), folder)
    others = CheckpointFolder(Store(tmp_path / "many"))
    together = returned(run_workers(world_size, lambda c: run(make_state(), others, collective=c)))
    for weights in together:
        torch.testing.assert_close(weights, alone, rtol=1e-5, atol=1e-6)


def test_two_workers_train_on_the_mean_of_their_losses(folder, tmp_path):
    state = make_state()

    def both(step):
        return (loss_of(state, rank=0)(step) + loss_of(state, rank=1)(step)) / 2

    alone = run(state, folder, loss=both)

    def work(collective):
        mine = make_state()
        shared = CheckpointFolder(Store(tmp_path / "two"))
        return run(mine, shared, collective=collective, loss=loss_of(mine, rank=collective.rank))

    first, second = returned(run_workers(2, work))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-6)


class Crash(Exception):
    pass


@pytest.mark.parametrize("crash", [3, 4, 6, 11])
def test_a_resumed_run_ends_exactly_like_one_that_was_not_interrupted(folder, tmp_path, crash):
    uninterrupted = run(make_state(), CheckpointFolder(Store(tmp_path / "whole")))

    def on_step(done):
        if done == crash:
            raise Crash

    with pytest.raises(Crash):
        run(make_state(), folder, on_step=on_step)
    seen = []
    resumed = run(make_state(), folder, on_step=seen.append)
    assert torch.equal(resumed, uninterrupted)
    # The interruption comes before the checkpoint of that step is written.
    assert seen[0] == 4 * ((crash - 1) // 4) + 1


def test_a_finished_run_only_loads_its_weights(folder):
    weights = run(make_state(), folder)
    seen = []
    assert torch.equal(run(make_state(), folder, on_step=seen.append), weights)
    assert seen == []


def test_the_learning_rate_follows_a_half_cosine(folder, monkeypatch):
    factors = []
    state = make_state()
    apply = state.apply
    monkeypatch.setattr(state, "apply", lambda *, learning_rate_factor: factors.append(learning_rate_factor) or apply())
    run(state, folder)
    expected = [0.5 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]
    assert factors == pytest.approx(expected, abs=1e-6)


def test_a_parameter_the_loss_does_not_use_stays_where_it_is(folder):
    state = make_state()
    before = state.model.bias.detach().clone()
    run(state, folder, loss=lambda step: (data(step)[0] @ state.model.weight.T).square().mean())
    assert torch.equal(state.model.bias, before)


def test_a_huge_gradient_is_scaled_down_to_norm_one(folder):
    state = make_state()
    seen = []

    def on_step(_):
        seen.append(torch.cat([p.grad.flatten() for p in state.model.parameters()]).norm().item())

    run(state, folder, loss=lambda step: 1e6 * loss_of(state)(step), on_step=on_step)
    assert max(seen) <= 1 + 1e-5
