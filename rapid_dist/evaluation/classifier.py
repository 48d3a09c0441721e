"""Usefulness as accuracy: train a small classifier on one set of images, test it on another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rapid_dist.artifacts.models import in_equal_batches
from rapid_dist.errors import SpecError
from rapid_dist.evaluation.inputs import check_images, check_labels
from rapid_dist.evaluation.intervals import wilson_interval
from rapid_dist.evaluation.small_cnn import SmallCnn

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
