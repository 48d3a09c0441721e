import pytest
import torch

from rapid_dist.errors import SpecError
from rapid_dist.evaluation.classifier import SmallCnn


def make_cnn(image_size=8, num_channels=1, seed=0):
    return SmallCnn(
        num_channels=num_channels,
        image_size=image_size,
        num_classes=3,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("image_size", [8, 12, 13, 28, 32, 33, 64])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_logits_and_features_have_their_shapes_at_every_size(image_size, num_channels):
    model = make_cnn(image_size, num_channels)
    x = torch.zeros(2, num_channels, image_size, image_size)
    assert model(x).shape == (2, 3)
    assert model.penultimate(x).shape == (2, model.num_features)


def test_weights_depend_on_the_generator_alone_and_the_global_one_is_left_alone():
    before = torch.get_rng_state()
    first, same, other = make_cnn(seed=1), make_cnn(seed=1), make_cnn(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_cost_of_a_28_pixel_image_is_what_the_docstring_says():
    multiply_adds = []

    def count(module, _, output):
        multiply_adds.append(module.weight.numel() * output[0].numel() // module.weight.shape[0])

    model = make_cnn(28).eval()
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    model(torch.zeros(1, 1, 28, 28))
    assert sum(multiply_adds) == pytest.approx(5.6e6, rel=0.02)


@pytest.mark.parametrize("image_size", [7, 65])
def test_sizes_outside_8_to_64_are_refused(image_size):
    with pytest.raises(SpecError, match=r"8\.\.64"):
        make_cnn(image_size)


def test_one_class_is_refused():
    with pytest.raises(SpecError, match="at least 2"):
        SmallCnn(num_channels=1, image_size=8, num_classes=1, generator=torch.Generator())
