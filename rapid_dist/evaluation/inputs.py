"""Checks that image and label arrays are what every metric expects, with messages that say what to do."""

from __future__ import annotations

import numpy as np

from rapid_dist.errors import InputError


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
