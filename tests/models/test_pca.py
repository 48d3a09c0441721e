"""The principal components of public images as an autoencoder: against a singular value decomposition."""

import numpy as np
import pytest
import torch

from rapid_dist.models.autoencoder import build_autoencoder
from rapid_dist.seeding import make_generator
from rapid_dist.specs import AutoencoderSpec

SHAPE = (1, 6, 5)


@pytest.fixture(scope="module")
def images():
    """(400, 1, 6, 5) float32 in [0, 1] near a 4-dimensional plane."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(400, 4)) * [0.2, 0.1, 0.05, 0.02] @ rng.normal(size=(4, 30)) / 3
    return torch.from_numpy((0.5 + plane + 0.001 * rng.normal(size=(400, 30))).clip(0, 1).astype("f4")).reshape(
        -1, *SHAPE
    )


def fitted(images, latent_dim, *, steps=0):
    autoencoder = build_autoencoder(
        AutoencoderSpec(kind="pca", latent_dim=latent_dim, width=8, steps=steps),
        image_shape=tuple(images.shape[1:]),
        generator=make_generator(0, "x"),
    )
    flat = images.flatten(1).double()
    autoencoder.set_components(flat.mean(0), torch.cov(flat.T, correction=0))
    return autoencoder


def test_latents_are_the_leading_left_singular_vectors(images):
    autoencoder = fitted(images, 4)
    flat = images.flatten(1).double()
    u, s, _ = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    latent = autoencoder.encode(images).double()
    deviation = s[:4] / len(images) ** 0.5
    expected = u[:, :4] * s[:4] / (deviation * deviation.mean()).sqrt()
    torch.testing.assert_close(latent.abs(), expected.abs(), rtol=1e-3, atol=1e-3)
    assert latent.square().sum(1).mean() == pytest.approx(4, rel=1e-4)


def test_decoding_gives_the_image_back_up_to_what_the_components_leave_out(images):
    autoencoder = fitted(images, 4)
    error = (autoencoder.decode(autoencoder.encode(images)) - images).abs().max()
    assert error < 0.01
    assert (fitted(images, 1).decode(fitted(images, 1).encode(images)) - images).abs().max() > 0.03


def test_more_components_than_pixels_are_all_of_them(images):
    autoencoder = fitted(images, 64)
    assert autoencoder.latent_shape == (30,)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), images, rtol=0, atol=1e-4)


def test_the_same_images_in_another_order_give_the_same_components(images):
    one, other = fitted(images, 4), fitted(images.flip(0), 4)
    torch.testing.assert_close(one.components, other.components, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 6, 9)])
def test_the_decoder_gives_back_detail_that_the_components_leave_out(shape):
    """Bars at one of four places: one component cannot tell them apart sharply, a trained decoder comes closer."""
    rng = np.random.default_rng(1)
    images = torch.zeros(256, *shape)
    place = torch.from_numpy(rng.integers(0, 4, 256))
    images[torch.arange(256), :, place] = 0.9
    trained = fitted(images, 2, steps=1)
    before = (trained.decode(trained.encode(images)) - images).abs().mean()
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
    for step in range(60):
        noise = torch.randn(256, 2, generator=make_generator(0, "n", step))
        loss = trained.reconstruction_loss(images, noise, torch.full((256, 1), 0.05))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decoded = trained.decode(trained.encode(images)).detach()
    linear = fitted(images, 2)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert (decoded - images).abs().mean() < 0.7 * min(
        before, (linear.decode(linear.encode(images)) - images).abs().mean()
    )


def test_the_decoder_alone_is_trained(images):
    trained = fitted(images, 4, steps=1)
    assert {name.split(".")[0] for name, _ in trained.named_parameters()} == {"restorer"}
    assert not list(fitted(images, 4).parameters())
