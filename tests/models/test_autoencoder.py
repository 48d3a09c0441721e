import pytest
import torch

from rapid_dist.models.autoencoder import build_autoencoder, to_pixels, to_unit_range
from rapid_dist.specs import AutoencoderSpec

SHAPE = (1, 9, 8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=generator(1))


@pytest.fixture
def conv():
    return build_autoencoder(
        AutoencoderSpec(kind="conv", latent_dim=5, width=2), image_shape=SHAPE, generator=generator()
    ).eval()


def test_the_identity_maps_pixels_to_minus_one_to_one_and_back():
    autoencoder = build_autoencoder(AutoencoderSpec(), image_shape=SHAPE, generator=generator())
    latent = autoencoder.encode(images())
    assert autoencoder.latent_shape == SHAPE
    torch.testing.assert_close(latent, 2 * images() - 1)
    torch.testing.assert_close(autoencoder.decode(latent), images())
    assert autoencoder.decode(latent * 10).abs().max() <= 1


@torch.no_grad()
def test_standardising_by_the_statistics_cancels_in_encode_then_decode(conv):
    before = torch.sigmoid(conv.decode_raw(conv.encode_raw(images())))
    conv.mean.copy_(torch.randn(5, generator=generator(2)))
    conv.std.copy_(torch.rand(5, generator=generator(3)) + 0.5)
    torch.testing.assert_close(conv.decode(conv.encode(images())), before)
    torch.testing.assert_close(conv.encode(images()) * conv.std + conv.mean, conv.encode_raw(images()))


@torch.no_grad()
def test_latents_and_decoded_images_have_the_stated_shapes(conv):
    latent = conv.encode(images())
    assert latent.shape == (6, *conv.latent_shape)
    decoded = conv.decode(latent)
    assert decoded.shape == (6, *SHAPE)
    assert 0 <= decoded.min() <= decoded.max() <= 1


@torch.no_grad()
def test_no_latent_depends_on_another_image(conv):
    image = images()
    before = conv.encode(image)
    image[2] = 1 - image[2]
    after = conv.encode(image)
    assert torch.equal(after[[0, 1, 3, 4, 5]], before[[0, 1, 3, 4, 5]])
    assert not torch.equal(after[2], before[2])


def test_pixels_survive_the_round_trip_through_the_unit_range():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_pixels(to_unit_range(pixels)), pixels)
    assert to_pixels(torch.tensor([-0.5, 0.0, 0.5019, 1.0, 1.5])).tolist() == [0, 0, 128, 255, 255]
