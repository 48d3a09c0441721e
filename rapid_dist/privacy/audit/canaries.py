"""Scores of Dirac canaries: records whose clipped gradient is the clipping norm on one coordinate of their own."""

from __future__ import annotations

import numpy as np

from rapid_dist.errors import SpecError


def canary_scores(released: np.ndarray, *, sample_rate: float, noise_multiplier: float) -> np.ndarray:
    """How much more likely the released values are with canary i in the data than without, (m,) float64.

    released: (T, m), the noised sum at each canary's coordinate in units of the clipping norm. With x_ti ~
    N(b, sigma^2) where b is 1 with probability q for a canary in the data and 0 otherwise, the log-likelihood
    ratio is sum_t log(1 - q + q exp((2 x_ti - 1) / (2 sigma^2))), which by Neyman-Pearson no score beats; at
    q = 1 that orders canaries as sum_t x_ti does, which is then returned.
    """
    x = np.asarray(released, dtype=np.float64)
    if x.ndim != 2:
        raise SpecError(f"released values have shape {x.shape}; expected (steps, canaries)")
    if sample_rate == 1:
        return x.sum(0)
    likelihood = (2 * x - 1) / (2 * noise_multiplier**2)
    return np.logaddexp(np.log1p(-sample_rate), np.log(sample_rate) + likelihood).sum(0)
