import torch

from rapid_dist.training.public import random_affine


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6):
    return torch.rand(n, 2, 9, 8, generator=generator(1))


def test_strength_zero_is_the_identity():
    torch.testing.assert_close(random_affine(images(), generator(), strength=0.0), images(), rtol=0, atol=1e-5)


def test_pixels_stay_in_their_range_and_images_in_their_shape():
    moved = random_affine(images(200), generator())
    assert moved.shape == (200, 2, 9, 8)
    assert 0 <= moved.min() <= moved.max() <= 1 + 1e-6
    assert (moved - images(200)).abs().mean() > 0.05


def test_a_flat_image_stays_flat():
    flat = torch.full((4, 1, 8, 8), 0.3)
    torch.testing.assert_close(random_affine(flat, generator()), flat)


def test_the_map_is_a_function_of_the_generator_and_not_of_other_images():
    image = images()
    before = random_affine(image, generator(3))
    assert torch.equal(random_affine(image, generator(3)), before)
    assert not torch.equal(random_affine(image, generator(4)), before)
    image[2] = 0
    assert torch.equal(random_affine(image, generator(3))[[0, 1, 3, 4, 5]], before[[0, 1, 3, 4, 5]])
