"""A small convolutional network for 8 to 64 px images, sized to train in a minute on two CPU cores."""

from __future__ import annotations

import torch
from torch import nn

from rapid_dist.errors import SpecError

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 64
NUM_FEATURES = 128
_POOLED_SIZE = 2


class SmallCnn(nn.Module):
    """Convolutions (3x3, batch norm, ReLU) that halve the side until it is at most 8, then two linear layers.

    Batch norm mixes examples of a batch, so this network is for evaluation only, never for private training.
    Cost at 28x28: about 5.6 million multiply-adds an image forward.

    Input of forward and penultimate: (B, C, H, W) float32 in [-1, 1].
    """

    def __init__(self, *, num_channels: int, image_size: int, num_classes: int, generator: torch.Generator):
        """Weights are He-uniform, drawn from `generator` (on the CPU) alone.

        Raises SpecError when the side is outside 8..64 or there are fewer than two classes.
        """
        super().__init__()
        if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
            raise SpecError(f"image side is {image_size} px; expected {MIN_IMAGE_SIZE}..{MAX_IMAGE_SIZE}")
        if num_classes < 2:
            raise SpecError(f"num_classes is {num_classes}; a classifier needs at least 2")
        self.num_channels, self.image_size, self.num_classes = num_channels, image_size, num_classes
        self.num_features = NUM_FEATURES
        plan = _plan_layers(image_size)
        layers: list[nn.Module] = []
        width_in = num_channels
        for width, stride in plan:
            layers += [_conv(width_in, width, stride), nn.BatchNorm2d(width), nn.ReLU()]
            width_in = width
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(_POOLED_SIZE), nn.Flatten())
        self.neck = _linear(width_in * _POOLED_SIZE**2, NUM_FEATURES)
        self.head = _linear(NUM_FEATURES, num_classes)
        _draw_weights(self, generator)

    def penultimate(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B, 128) features, the input of the last linear layer."""
        return torch.relu(self.neck(self.trunk(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B, num_classes) logits."""
        return self.head(self.penultimate(x))


def _plan_layers(image_size: int) -> list[tuple[int, int]]:
    """The (width, stride) of each convolution; larger images are halved once more at the start."""
    if image_size <= 12:
        return [(32, 1), (64, 2), (64, 1)]
    if image_size <= 32:
        return [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1)]
    return [(16, 2), (32, 2), (32, 1), (64, 2), (64, 1)]


def _conv(width_in: int, width_out: int, stride: int) -> nn.Conv2d:
    # skip_init: the usual constructor would draw from the global generator.
    return nn.utils.skip_init(nn.Conv2d, width_in, width_out, 3, stride=stride, padding=1, bias=False)


def _linear(width_in: int, width_out: int) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, width_in, width_out)


def _draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
