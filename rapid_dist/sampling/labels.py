"""Which class each sample gets: a function of the sample's index and the stated proportions."""

from __future__ import annotations

import numpy as np

from rapid_dist.seeding import make_rng


def sample_labels(num_samples: int, num_classes: int, proportions: tuple[float, ...] | None, seed: int) -> np.ndarray:
    """(num_samples,) int64 labels in a seeded order, counts rounded from the proportions; -1 when unconditional."""
    if num_classes == 0:
        return np.full(num_samples, -1, dtype=np.int64)
    shares = np.full(num_classes, 1 / num_classes) if proportions is None else np.asarray(proportions)
    edges = np.round(np.cumsum(shares) * num_samples).astype(np.int64)
    labels = np.searchsorted(edges, np.arange(num_samples), side="right").clip(max=num_classes - 1)
    return make_rng(seed, "labels").permutation(labels)
