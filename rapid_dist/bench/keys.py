"""Keys to measure with: like those of the feature extractor, and the i.i.d. Gaussian worst case.

The clustered keys follow what was measured on the keys that the extractor gave 208,608 trajectories of 52,152
handwritten letters in 128 dimensions: unit vectors in a cone around their mean (norm 0.86), the variance across it
(0.27) in few directions (half in the first 4, nine tenths in the first 16, a slow tail), in overlapping clusters.
"""

from __future__ import annotations

import numpy as np

from rapid_dist.errors import SpecError
from rapid_dist.seeding import make_rng

CLUSTERED, GAUSSIAN = "clustered", "i.i.d. Gaussian (worst case)"

_NUM_CLUSTERS = 100
_SHARE_BETWEEN = 0.5  # of the variance, between the clusters' centres
_VARIANCE = 0.27
_HEAD, _HEAD_LENGTH, _TAIL_LENGTH = 0.87, 4.2, 30.0  # share and decay lengths of the spectrum, in directions
_ROWS_PER_BLOCK = 1 << 16


def draw_keys(data: str, count: int, *, dim: int, seed: int, role: str) -> np.ndarray:
    """Returns unit vectors (count, dim) float32 of the distribution data, CLUSTERED or GAUSSIAN.

    The clusters depend on the seed and dim alone, so keys and queries of two roles come from one distribution.
    Raises SpecError for another distribution, or when count < 1 or dim < 2.
    """
    if data not in _DRAW:
        raise SpecError(f"data is {data!r}; expected one of {', '.join(_DRAW)}")
    if count < 1 or dim < 2:
        raise SpecError(f"got {count} keys of {dim} dims; expected at least 1 key and 2 dims")
    keys = np.empty((count, dim), np.float32)
    for block, first in enumerate(range(0, count, _ROWS_PER_BLOCK)):
        rows = keys[first : first + _ROWS_PER_BLOCK]
        drawn = _DRAW[data](len(rows), dim, seed, make_rng(seed, f"bench {role}", block))
        rows[:] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return keys


def spectrum(dim: int) -> np.ndarray:
    """Returns the variance of each direction of the clustered keys before they are made unit, (dim,), descending."""
    direction = np.arange(dim)
    head, tail = (np.exp(-direction / length) for length in (_HEAD_LENGTH, _TAIL_LENGTH))
    return _VARIANCE * (_HEAD * head / head.sum() + (1 - _HEAD) * tail / tail.sum())


def _draw_clustered(count: int, dim: int, seed: int, rng: np.random.Generator) -> np.ndarray:
    centres = make_rng(seed, "bench centres", dim).normal(size=(_NUM_CLUSTERS, dim))
    inside = rng.normal(size=(count, dim))
    mixed = _SHARE_BETWEEN**0.5 * centres[rng.integers(0, _NUM_CLUSTERS, count)] + (1 - _SHARE_BETWEEN) ** 0.5 * inside
    vectors = mixed * np.sqrt(spectrum(dim))
    vectors[:, -1] += (1 - _VARIANCE) ** 0.5
    return vectors


def _draw_gaussian(count: int, dim: int, seed: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(count, dim))


_DRAW = {CLUSTERED: _draw_clustered, GAUSSIAN: _draw_gaussian}
