"""Gaussian noise addressed by global coordinate, and the one way it is added to a sum."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

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
_LEAST_WINDOWS_A_THREAD = 8
_MOST_GRID_STEPS = 2.0**52  # float64 still tells neighbouring steps apart


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
    """Draws coordinates [first, first + num) of the noise vector of a step: N(0, stddev^2).

    Args:
        key: The secret of the attempt.
        role: What the noise is for; noise of another role is independent.
        attempt: Number of the attempt, as the ledger gave it.
        step: Number of the step within the attempt.
        first_coordinate: The first coordinate drawn, at least 0.
        num_coordinates: How many are drawn, at least 0.
        stddev: Standard deviation of each, in the units of the sum that it is added to.

    Returns:
        (num_coordinates,) float64 on the CPU.

    Raises:
        SpecError: stddev is not a finite number above 0, or a coordinate is negative.

    Each value is the sum of 4 independent Box-Muller draws over 2, which denies an attacker the low bits of
    any one draw (Holohan and Braghin, arXiv 2107.10138). Uniforms have 53 bits; the radius uses (0, 1].
    The logarithm and tangent are numpy's, whose last bit may differ between kinds of CPU; nothing else does.
    Guarantee: values at different (role, attempt, step, coordinate) are independent for anyone without the
    key; a value depends on that address and stddev alone, so shards of one vector may be drawn apart.
    """
    if not (math.isfinite(stddev) and stddev > 0):
        raise SpecError(f"stddev is {stddev!r}; expected a finite number above 0")
    if first_coordinate < 0 or num_coordinates < 0:
        raise SpecError(f"got coordinates from {first_coordinate}, {num_coordinates} of them; expected >= 0")
    noise = np.empty(num_coordinates)
    end = first_coordinate + num_coordinates
    windows = range(first_coordinate // _WINDOW, -(-end // _WINDOW) if num_coordinates else 0)

    def fill(some: range) -> None:
        space = _Workspace()
        for window in some:
            low, high = max(first_coordinate, window * _WINDOW), min(end, (window + 1) * _WINDOW)
            target = noise[low - first_coordinate : high - first_coordinate]
            is_whole = len(target) == _WINDOW
            values = target if is_whole else space.spare
            data = stream_bytes(
                key,
                role=role,
                attempt=attempt,
                step=step,
                first_byte=window * _WINDOW_BYTES,
                num_bytes=_WINDOW_BYTES,
            )
            _gaussian_window(data, stddev, space, out=values)
            if not is_whole:
                target[:] = values[low - window * _WINDOW :][: len(target)]

    # Each window is one thread's own work, so the number of threads changes no value.
    num_threads = min(torch.get_num_threads(), len(windows) // _LEAST_WINDOWS_A_THREAD)
    if num_threads <= 1:
        fill(windows)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(fill, (windows[i::num_threads] for i in range(num_threads))))
    return torch.from_numpy(noise)


class _Workspace:
    """Arrays one thread reuses from window to window, since fresh ones cost more than the arithmetic in them."""

    def __init__(self) -> None:
        self.bits = np.empty((_DRAWS, _HALF), dtype=np.int64)
        self.radius, self.tangent, self.squared, self.other = np.empty((4, _DRAWS, _HALF))
        self.spare = np.empty(_WINDOW)


def _gaussian_window(data: bytes, stddev: float, space: _Workspace, *, out: np.ndarray) -> None:
    """Turns the bytes of one window into normals of this stddev, out (8192,) float64, on one thread.

    Box-Muller: with r = sqrt(-2 ln u), (r cos a, r sin a) are two independent normals. The cosines make the
    first half of the window and the sines the second, so the four draws inside a value share nothing. Both
    come from t = tan(a / 2), one call: cos a = (1 - t^2) / (1 + t^2), sin a = 2 t / (1 + t^2).
    """
    words = np.frombuffer(data, dtype="<u8").reshape(2, _DRAWS, _HALF)
    radius, tangent, squared, other = space.radius, space.tangent, space.squared, space.other
    np.right_shift(words[0], np.uint64(11), out=space.bits.view(np.uint64))
    np.copyto(radius, space.bits)
    radius += 1.0
    radius *= 2.0**-53  # u in (0, 1]: never log(0)
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    np.right_shift(words[1].view(np.int64), 11, out=space.bits)  # keeps the sign: 53 bits in [-2^52, 2^52)
    np.copyto(tangent, space.bits)
    tangent *= math.pi * 2.0**-53  # a / 2 in [-pi / 2, pi / 2)
    np.tan(tangent, out=tangent)
    np.multiply(tangent, tangent, out=squared)
    np.add(squared, 1.0, out=other)
    radius /= other
    np.subtract(1.0, squared, out=other)
    other *= radius
    tangent *= radius
    _sum_of_draws(other, stddev / math.sqrt(_DRAWS), out=out[:_HALF])
    _sum_of_draws(tangent, stddev / math.sqrt(_DRAWS) * 2.0, out=out[_HALF:])


def _sum_of_draws(draws: np.ndarray, factor: float, *, out: np.ndarray) -> None:
    """factor times the sum of (4, n) over draws, in a fixed order; draws are overwritten."""
    np.add(draws[0], draws[1], out=out)
    draws[2] += draws[3]
    out += draws[2]
    out *= factor


def grid_for(max_grad_norm: float) -> float:
    """Returns the power of two at or just below max_grad_norm * 2^-20; multiplying by it is exact.

    Args:
        max_grad_norm: The L2 norm that each record's gradient is clipped to.

    Raises:
        SpecError: It is not a finite number above 0.
    """
    if not (math.isfinite(max_grad_norm) and 2.0**-900 <= max_grad_norm <= 2.0**900):
        raise SpecError(f"max_grad_norm is {max_grad_norm!r}; expected a finite number above 0")
    _, exponent = math.frexp(max_grad_norm)
    return math.ldexp(1.0, exponent - 1 - 20)


def add_noise_on_grid(total: torch.Tensor | np.ndarray, noise: torch.Tensor | np.ndarray, grid: float) -> torch.Tensor:
    """Returns total + noise rounded to a multiple of grid: what may leave.

    Args:
        total: The sum of clipped values, of any shape.
        noise: Noise of the same shape, from draw_gaussian.
        grid: The spacing of what is returned, from grid_for.

    Returns:
        A new CPU tensor of that shape, float64.

    Raises:
        PrivacyError: The shapes differ, or the total is not finite: one record would be visible through any noise.
        SpecError: grid is no power of two.

    Guarantee: what leaves is a rounding of the exact total + noise: IEEE addition rounds it, the grid rounds it
    again, and neither rounding depends on the data. So this is post-processing, and the low bits of a float, which
    could tell which total a noise value was added to, are gone (Mironov 2012; Jin et al., arXiv 2112.05307).
    Rounding the noise before adding it would not be. What remains is that the noise itself is made of float64
    values, 2^30 or more in a cell of the grid: severity Theoretical.
    """
    total = torch.as_tensor(total, dtype=torch.float64)
    noise = torch.as_tensor(noise, dtype=torch.float64)
    if total.shape != noise.shape:
        raise PrivacyError(f"the sum has shape {tuple(total.shape)}, the noise {tuple(noise.shape)}")
    mantissa, _ = math.frexp(grid) if math.isfinite(grid) else (0.0, 0)
    if mantissa != 0.5:
        raise SpecError(f"grid is {grid!r}; expected a power of two from grid_for")
    noisy = (total + noise).mul_(1.0 / grid)  # exact: a power of two
    if noisy.numel():
        low, high = torch.aminmax(noisy)  # NaN if there is one
        if not max(-low.item(), high.item()) < _MOST_GRID_STEPS:
            raise PrivacyError(
                f"the clipped sum is not finite, or more than {_MOST_GRID_STEPS:g} grid steps from 0;"
                " clipping must turn non-finite gradients into zeros and bound the others"
            )
    return noisy.round_().mul_(grid)
