"""Is the noise Gaussian of the planned scale, and independent over coordinates, steps and attempts?

Right noise crosses each bound about once in a million audits; wrong scales are also tried, and a
test that cannot tell 0.97 or 1.03 of the scale from the right one counts as a violation.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from rapid_dist.errors import SpecError
from rapid_dist.privacy.audit.checks import Check

LAYER = "noise"
ALARM = 1e-6
_WRONG_SCALES = (0.97, 1.03)
_MOST_CORRELATED = 2048  # rows or columns compared pair by pair
_STRETCH = 4  # values in a row that may not occur twice


def noise_checks(noise: np.ndarray, *, where: str) -> tuple[Check, ...]:
    """Checks of noise divided by its planned standard deviation.

    noise: (rows, coordinates) float64; a row is the noise of one step of one attempt. where: the run, for people.
    """
    noise = np.asarray(noise, dtype=np.float64)
    if noise.ndim != 2 or min(noise.shape) < 8:
        raise SpecError(f"noise has shape {noise.shape}; expected at least 8 rows and 8 coordinates")
    flat, z = noise.ravel(), _z(1)
    size = flat.size
    return (
        _within(where, "standard deviation over the planned one", flat.std(), 1, z / np.sqrt(2 * size)),
        _within(where, "mean over the planned standard deviation", flat.mean(), 0, z / np.sqrt(size)),
        *_distribution_checks(where, flat),
        _quietest(where, "coordinate", noise),
        _quietest(where, "step", noise.T),
        _correlation(where, "two steps or attempts", noise),
        _correlation(where, "two coordinates", noise.T),
        _shifted_correlation(where, noise),
        _check(where, "stretches of noise that occur twice", repeated_stretches(noise), low=0, high=0),
    )


def repeated_stretches(noise: np.ndarray) -> int:
    """How many runs of 4 neighbouring values occur more than once, in any row at any place.

    Single values repeat by chance, since the release is rounded to a grid; four in a row do so only when the same
    stream was used twice. A stretch of equal values counts too.
    """
    noise = np.ascontiguousarray(noise)
    windows = np.lib.stride_tricks.sliding_window_view(noise, _STRETCH, axis=1).reshape(-1, _STRETCH)
    # 64 bits of a fixed mixing of the four values' bits: equal stretches agree, others almost never do.
    bits = np.ascontiguousarray(windows, dtype=np.float64).view(np.uint64)
    mixed = np.zeros(len(bits), dtype=np.uint64)
    for column in bits.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return len(mixed) - len(np.unique(mixed))


def _check(where: str, name: str, found: float, *, low: float = -np.inf, high: float = np.inf) -> Check:
    return Check(layer=LAYER, name=f"{where}: {name}", found=float(found), low=float(low), high=float(high))


def _z(num_looks: int) -> float:
    return float(stats.norm.isf(ALARM / (2 * num_looks)))


def _within(where: str, name: str, found: float, centre: float, half: float) -> Check:
    return _check(where, name, found, low=centre - half, high=centre + half)


def _distribution_checks(where: str, flat: np.ndarray) -> tuple[Check, ...]:
    """Kolmogorov-Smirnov p-values: not small at the planned scale, small at scales 3% off."""
    ordered = np.sort(flat)
    right = _check(where, "KS p-value at the planned scale", _ks(ordered), low=ALARM)
    wrong = (
        _check(where, f"KS p-value at {scale} of the scale", _ks(ordered / scale), high=ALARM)
        for scale in _WRONG_SCALES
    )
    return (right, *wrong)


def _ks(ordered: np.ndarray) -> float:
    """P[sqrt(n) D > observed] under N(0, 1), by Kolmogorov's limit law; ordered: (n,), n in the thousands."""
    cdf = stats.norm.cdf(ordered)
    places = np.arange(len(ordered) + 1) / len(ordered)
    distance = max((places[1:] - cdf).max(), (cdf - places[:-1]).max())
    return float(stats.kstwobign.sf(distance * np.sqrt(len(ordered))))


def _quietest(where: str, what: str, columns: np.ndarray) -> Check:
    """The smallest standard deviation of any one column; its lowest credible value by the chi-square law."""
    num_rows, num_columns = columns.shape
    least = np.sqrt(stats.chi2.ppf(ALARM / num_columns, num_rows) / num_rows)
    found = np.sqrt(np.square(columns).mean(0).min())
    return _check(where, f"least standard deviation of any {what}", found, low=least)


def _correlation(where: str, what: str, rows: np.ndarray) -> Check:
    """The largest correlation of two rows, over at most 2048 rows spread evenly; high: by the law of Student's t."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _MOST_CORRELATED).astype(int))]
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.corrcoef(chosen)
    np.fill_diagonal(matrix, 0)
    degrees = rows.shape[1] - 2
    t = stats.t.isf(ALARM / (len(chosen) * (len(chosen) - 1)), degrees)
    high = float(t / np.sqrt(degrees + t * t))
    return _check(where, f"largest correlation of {what}", np.abs(matrix).max(), high=high)


def _shifted_correlation(where: str, noise: np.ndarray) -> Check:
    """The largest correlation of a row with itself moved along by any number of coordinates, averaged over rows.

    Workers that draw the same stream for their own slices show here, whatever the slices' length.
    """
    num_rows, size = noise.shape
    spectrum = np.zeros(size + 1)
    for row in noise:
        spectrum += np.square(np.abs(np.fft.rfft(row, 2 * size)))
    moved = np.fft.irfft(spectrum, 2 * size)[1:size]
    pairs = num_rows * (size - np.arange(1, size))
    enough = pairs >= 1000  # below that a product of normals is too far from a normal
    found = np.abs(moved[enough] / np.sqrt(pairs[enough])).max(initial=0.0)
    name = "largest correlation with a shift, in standard errors"
    return _check(where, name, found, high=_z(size) + 2)
