"""Confidence intervals of a share."""

from __future__ import annotations

import math

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
