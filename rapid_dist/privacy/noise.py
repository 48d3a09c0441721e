"""Gaussian noise addressed by global coordinate, and the one way it is added to a sum."""

from __future__ import annotations

import math

import numpy as np
import torch

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.keyed import RunKey, stream_bytes

ROLE = "noise"
# A window is worked out whole and then cut, so a value never depends on the range it was asked in.
_WINDOW = 8192
_HALF = _WINDOW // 2
_DRAWS = 4
_WINDOW_BYTES = _HALF * _DRAWS * 2 * 8


def draw_gaussian(
    key: RunKey,
    *,
    role: str = ROLE,
    attempt: int,
    step: int,
    first_coordinate: int,
    num_coordinates: int,
    stddev: float,
) -> torch.Tensor:
    """Coordinates [first, first + num) of the noise vector of this step: N(0, stddev^2), (num,) float64.

    Each value is the sum of 4 independent Box-Muller draws over 2, which denies an attacker the low bits of
    any one draw (Holohan and Braghin, arXiv 2107.10138). Uniforms have 53 bits; the radius uses (0, 1].
    Guarantee: values at different (role, attempt, step, coordinate) are independent for anyone without the
    key; a value depends on that address and stddev alone, so shards of one vector may be drawn apart.
    Raises SpecError when stddev is not a finite number above 0.
    """
    if not (math.isfinite(stddev) and stddev > 0):
        raise SpecError(f"stddev is {stddev!r}; expected a finite number above 0")
    if first_coordinate < 0 or num_coordinates < 0:
        raise SpecError(f"got coordinates from {first_coordinate}, {num_coordinates} of them; expected >= 0")
    noise = np.empty(num_coordinates)
    end = first_coordinate + num_coordinates
    position = first_coordinate
    while position < end:
        window, offset = divmod(position, _WINDOW)
        take = min(_WINDOW - offset, end - position)
        values = _standard_window(key, role, attempt, step, window)
        noise[position - first_coordinate :][:take] = values[offset : offset + take]
        position += take
    noise *= stddev
    return torch.from_numpy(noise)


def _standard_window(key: RunKey, role: str, attempt: int, step: int, window: int) -> np.ndarray:
    """One window of standard normals, (8192,) float64, by numpy on one thread.

    Box-Muller: with r = sqrt(-2 ln u), (r cos a, r sin a) are two independent normals. The cosines make the
    first half of the window and the sines the second, so the four draws inside a value share nothing. Both
    come from t = tan(a / 2), one call: cos a = (1 - t^2) / (1 + t^2), sin a = 2 t / (1 + t^2).
    """
    data = stream_bytes(
        key,
        role=role,
        attempt=attempt,
        step=step,
        first_byte=window * _WINDOW_BYTES,
        num_bytes=_WINDOW_BYTES,
    )
    words = np.frombuffer(data, dtype="<u8").reshape(2, _DRAWS, _HALF)
    top_53_bits = (words >> np.uint64(11)).astype(np.float64)
    uniform = (top_53_bits[0] + 1.0) * 2.0**-53  # in (0, 1]: never log(0)
    tangent = np.tan((top_53_bits[1] - 2.0**52) * (math.pi * 2.0**-53))  # a / 2 in [-pi / 2, pi / 2)
    squared = tangent * tangent
    scaled_radius = np.sqrt(-2.0 * np.log(uniform)) / (1.0 + squared)
    cosines = _sum_of_draws(scaled_radius * (1.0 - squared))
    sines = _sum_of_draws(scaled_radius * tangent) * 2.0
    return np.concatenate([cosines, sines]) / math.sqrt(_DRAWS)


def _sum_of_draws(draws: np.ndarray) -> np.ndarray:
    """Sums (4, n) over draws, in a fixed order."""
    return (draws[0] + draws[1]) + (draws[2] + draws[3])


def grid_for(max_grad_norm: float) -> float:
    """The power of two at or just below max_grad_norm * 2^-20; multiplying by it is exact."""
    if not (math.isfinite(max_grad_norm) and 2.0**-900 <= max_grad_norm <= 2.0**900):
        raise SpecError(f"max_grad_norm is {max_grad_norm!r}; expected a finite number above 0")
    _, exponent = math.frexp(max_grad_norm)
    return math.ldexp(1.0, exponent - 1 - 20)


def add_noise_on_grid(total: torch.Tensor | np.ndarray, noise: torch.Tensor | np.ndarray, grid: float) -> torch.Tensor:
    """total + noise in float64, rounded to a multiple of grid; both of any one shape; a new CPU tensor.

    Guarantee: what leaves lies on a grid that does not depend on the data, so the low bits of a float, which
    could tell which total a noise value was added to, are gone (Mironov 2012). Rounding the noisy value is
    post-processing and costs nothing; rounding the noise before adding it would not be.
    Raises PrivacyError when the total is not finite: one record would then be visible through any noise.
    """
    total = torch.as_tensor(total, dtype=torch.float64)
    noise = torch.as_tensor(noise, dtype=torch.float64)
    if total.shape != noise.shape:
        raise PrivacyError(f"the sum has shape {tuple(total.shape)}, the noise {tuple(noise.shape)}")
    mantissa, _ = math.frexp(grid) if math.isfinite(grid) else (0.0, 0)
    if mantissa != 0.5:
        raise SpecError(f"grid is {grid!r}; expected a power of two from grid_for")
    noisy = total + noise
    if not torch.isfinite(noisy).all():
        raise PrivacyError("the clipped sum is not finite; clipping must turn such gradients into zeros")
    return noisy.div_(grid).round_().mul_(grid)
