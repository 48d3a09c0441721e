"""A canary pulls on its own parameter alone, by exactly the clipping norm; other records never touch one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rapid_dist.audit.canaries import LATENT_SHAPE, NUM_CLASSES, build_canary_model, make_canaries, make_records
from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.models.denoisers import one_hot_condition
from rapid_dist.privacy.clipping import choose_engine, clipped_gradient_sum
from rapid_dist.specs import DenoiserSpec
from rapid_dist.training.private_data import PrivateBatch

NUM_CANARIES = 5
SPECS = {
    "residual_mlp": DenoiserSpec(width=8, num_blocks=1, embedding_dim=4),
    "unet": DenoiserSpec(kind="unet", width=8, num_blocks=1, embedding_dim=4),
}


def batch_of(labels: list[int], draws: int = 2) -> PrivateBatch:
    generator = torch.Generator().manual_seed(0)
    shape = (len(labels), draws, *LATENT_SHAPE)
    return PrivateBatch(
        x_t=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        timestep=torch.randint(0, 30, shape[:2], generator=generator),
        condition=one_hot_condition(torch.tensor(labels), NUM_CLASSES + NUM_CANARIES),
    )


def clipped(kind: str, labels: list[int], max_grad_norm: float = 0.7, engine: str = "auto") -> torch.Tensor:
    model, batch = build_canary_model(SPECS[kind], NUM_CANARIES, max_grad_norm=max_grad_norm), batch_of(labels)
    return clipped_gradient_sum(
        denoising_loss,
        model,
        batch.rows(),
        rows_per_example=batch.rows_per_example,
        max_grad_norm=max_grad_norm,
        engine=engine,
    )


ENGINE_ROWS = [("residual_mlp", "linear"), ("residual_mlp", "vmap"), ("residual_mlp", "opacus"), ("unet", "vmap")]


@pytest.mark.parametrize(("kind", "engine"), ENGINE_ROWS)
def test_a_canary_is_the_clipping_norm_on_its_own_coordinate(kind, engine):
    total = clipped(kind, [NUM_CLASSES + 3], engine=engine)
    expected = torch.zeros_like(total)
    expected[-NUM_CANARIES + 3] = 0.7
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("label", [-1, 0, NUM_CLASSES - 1])
def test_another_record_moves_the_denoiser_and_no_canary(kind, label):
    total = clipped(kind, [label])
    assert total[-NUM_CANARIES:].abs().max() == 0
    assert total[:-NUM_CANARIES].norm() > 0.1


def test_canaries_of_one_index_add_up():
    total = clipped("residual_mlp", [NUM_CLASSES + 1, NUM_CLASSES + 1, NUM_CLASSES + 4, 0])
    np.testing.assert_allclose(total[-NUM_CANARIES:].numpy() / 0.7, [0, 2, 0, 0, 1], atol=1e-5)


def test_the_canary_model_takes_the_engine_of_its_denoiser():
    models = {kind: build_canary_model(spec, NUM_CANARIES, max_grad_norm=1.0) for kind, spec in SPECS.items()}
    assert {kind: choose_engine(model) for kind, model in models.items()} == {"residual_mlp": "linear", "unet": "vmap"}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_record_is_on_one_worker(world_size):
    records = make_records(np.arange(7) + 10**6, np.zeros(7)) + make_canaries(np.arange(4))
    parts = [records.part(rank, world_size) for rank in range(world_size)]
    ids = np.concatenate([part.example_id for part in parts])
    assert sorted(ids.tolist()) == sorted(records.example_id.tolist())
    assert all(len(part.latent) == len(part) == len(part.surrogate) for part in parts)


def test_leaving_a_record_out_changes_nothing_in_the_others():
    whole, lacking = make_records(np.array([2, 4]), np.zeros(2)), make_records(np.array([2]), np.zeros(1))
    joined = make_canaries(np.arange(3)) + lacking
    assert torch.equal(joined.latent[-1], lacking.latent[0])
    assert len(whole.part(0, 2)) == 2
