"""Usefulness as accuracy: train a small classifier on one set of images, test it on another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rapid_dist.errors import InputError, SpecError
from rapid_dist.models.public import in_equal_batches


def check_images(images: np.ndarray, name: str) -> None:
    """Requires a non-empty uint8 array (N, C, H, W) with 1 or 3 channels.

    Raises InputError otherwise.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(f"{name} is {got}; expected a uint8 numpy array (N, C, H, W)")
    if images.shape[0] == 0:
        raise InputError(f"{name} is empty; expected at least one image")
    if images.shape[1] not in (1, 3):
        raise InputError(f"{name} has {images.shape[1]} channels; expected 1 (grey) or 3 (RGB)")


def check_labels(labels: np.ndarray, num_examples: int, num_classes: int, name: str) -> np.ndarray:
    """Returns the labels as int64 (N,) after checking count, kind and range [0, num_classes).

    Raises InputError when a label is missing, not an integer, or outside the classes.
    """
    labels = np.asarray(labels)
    if labels.shape != (num_examples,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{name} is {labels.dtype} {labels.shape}; expected integers ({num_examples},)")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise InputError(
            f"{name} spans {labels.min()}..{labels.max()}; expected 0..{num_classes - 1} for {num_classes} classes"
        )
    return labels.astype(np.int64)


def check_features(features: np.ndarray, name: str) -> None:
    """Requires a finite floating array (N, d) with at least two rows.

    Raises InputError otherwise.
    """
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating) or features.shape[0] < 2:
        raise InputError(f"{name} is {features.dtype} {features.shape}; expected floats (N, d), N >= 2")
    if not np.isfinite(features).all():
        raise InputError(f"{name} holds NaN or infinity; check the feature extractor")


Z_95 = 1.959963984540054


def wilson_interval(num_successes: float, num_trials: int, z: float = Z_95) -> tuple[float, float]:
    """Returns the Wilson score interval of a share (Wilson 1927), 95% unless z says otherwise.

    It stays inside [0, 1] and is not empty at 0 or n successes, unlike the normal interval.
    num_successes may be fractional (a tie is half a success).
    Raises ValueError for no trials or a count outside [0, num_trials].
    """
    if num_trials < 1 or not 0 <= num_successes <= num_trials:
        raise ValueError(f"got {num_successes} of {num_trials}; expected 0 <= successes <= trials, trials >= 1")
    share = num_successes / num_trials
    shrink = 1 + z * z / num_trials
    centre = (share + z * z / (2 * num_trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2)
    # At 0 or n successes rounding would leave the share itself just outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


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


_WEIGHT_DECAY = 0.01


@dataclass(frozen=True, kw_only=True)
class AccuracyResult:
    """Share of test examples labelled rightly, with its Wilson 95% interval.

    per_class[k] is the accuracy on examples of true class k; None where the test set has none.
    The interval covers the choice of test examples, not the choice of training seed.
    """

    accuracy: float
    per_class: tuple[float | None, ...]
    num_examples: int
    interval_low: float
    interval_high: float


def train_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: str | torch.device = "cpu",
    max_shift: int = 1,
    progress_fn: Callable[[int, int, float], None] | None = None,
) -> SmallCnn:
    """Trains a SmallCnn with AdamW and a one-cycle schedule; returns it in evaluation mode.

    The last of a fixed number of epochs is taken: no epoch, seed or model is selected, so no validation data
    is looked at. Each training image is moved by up to max_shift pixels each way (edge pixels repeated); 0 is off.
    progress_fn gets (epochs done, num_epochs, mean loss); that loss is private when the images are.

    images: (N, C, H, W) uint8, square; labels: (N,) integers in [0, num_classes); learning_rate is the peak.
    Raises InputError for arrays of another kind, SpecError for settings out of range.
    """
    check_images(images, "training images")
    labels = check_labels(labels, len(images), num_classes, "training labels")
    if images.shape[2] != images.shape[3]:
        raise SpecError(f"images are {images.shape[2]}x{images.shape[3]}; the classifier expects square images")
    if num_epochs < 1 or batch_size < 1 or learning_rate <= 0 or max_shift < 0:
        raise SpecError(
            f"got num_epochs={num_epochs}, batch_size={batch_size}, learning_rate={learning_rate}, "
            f"max_shift={max_shift}; expected num_epochs, batch_size >= 1, learning_rate > 0, max_shift >= 0"
        )
    generator = torch.Generator().manual_seed(seed)
    model = SmallCnn(
        num_channels=images.shape[1], image_size=images.shape[2], num_classes=num_classes, generator=generator
    ).to(device)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    targets = torch.from_numpy(labels).to(device)
    num_batches = -(-len(images) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=num_epochs * num_batches + 1
    )
    model.train()
    for epoch in range(1, num_epochs + 1):
        order = torch.randperm(len(images), generator=generator).to(device)
        loss_sum = torch.zeros((), device=device)
        for chosen in order.tensor_split(num_batches):  # even parts: no tiny last batch for batch norm
            batch = draw_shifted(pixels[chosen], max_shift, generator)
            loss = nn.functional.cross_entropy(model(scale_pixels(batch)), targets[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.detach() * len(chosen)
        if progress_fn is not None:
            progress_fn(epoch, num_epochs, float(loss_sum) / len(images))
    return model.eval()


def predict(model: SmallCnn, images: np.ndarray) -> np.ndarray:
    """Returns the most likely class of each image, (N,) int64.

    images: (N, C, H, W) uint8. Raises InputError for arrays of another kind.

    Guarantee: entry i is a function of image i and the model alone, so that one record moves a count of right answers
    by one at most.
    """
    check_images(images, "images")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()

    def most_likely(part: torch.Tensor) -> torch.Tensor:
        return model(scale_pixels(part.to(device))).argmax(dim=1).cpu()

    found = in_equal_batches(most_likely, torch.from_numpy(images), row_shape=()).long()
    model.train(was_training)
    return found.numpy()


def accuracy_of(model: SmallCnn, images: np.ndarray, labels: np.ndarray) -> AccuracyResult:
    """Returns accuracy, per-class accuracy and the interval on labelled test images.

    images: (N, C, H, W) uint8; labels: (N,) integers in [0, num_classes).
    """
    check_images(images, "test images")
    labels = check_labels(labels, len(images), model.num_classes, "test labels")
    return summarise_confusion(confusion(labels, predict(model, images), model.num_classes))


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns counts (num_classes, num_classes) int64; row = true class, column = predicted class."""
    labels = check_labels(labels, len(predictions), num_classes, "labels")
    predictions = check_labels(predictions, len(predictions), num_classes, "predictions")
    flat = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def summarise_confusion(counts: np.ndarray) -> AccuracyResult:
    """Returns the accuracies a confusion matrix implies. counts: (K, K) integers, rows are true classes."""
    num_examples, num_right = int(counts.sum()), int(np.trace(counts))
    low, high = wilson_interval(num_right, num_examples)
    per_class = tuple(float(counts[k, k] / total) if total else None for k, total in enumerate(counts.sum(axis=1)))
    return AccuracyResult(
        accuracy=num_right / num_examples,
        per_class=per_class,
        num_examples=num_examples,
        interval_low=low,
        interval_high=high,
    )


def scale_pixels(images: torch.Tensor) -> torch.Tensor:
    """Maps uint8 0..255 to float32 [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def draw_shifted(images: torch.Tensor, max_shift: int, generator: torch.Generator) -> torch.Tensor:
    """Moves each image by its own uniform shift in [-max_shift, max_shift]^2, repeating edge pixels.

    images: (B, C, H, W), any dtype; the generator is on the CPU. Returns the same shape.
    """
    if max_shift == 0:
        return images
    num, _, height, width = images.shape
    shifts = torch.randint(-max_shift, max_shift + 1, (2, num, 1), generator=generator)
    rows = (torch.arange(height) + shifts[0]).clamp_(0, height - 1).to(images.device)
    cols = (torch.arange(width) + shifts[1]).clamp_(0, width - 1).to(images.device)
    picked = torch.arange(num, device=images.device)[:, None, None]
    # Two index arrays around a slice put the channel last.
    return images[picked, :, rows[:, :, None], cols[:, None, :]].movedim(-1, 1)
