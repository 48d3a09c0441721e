"""Moments of noise and of inclusion: scale, law, correlations, repeats, rates and batch sizes."""

from __future__ import annotations

import numpy as np
from scipy import stats

from rapid_dist.audit.checks import Check
from rapid_dist.errors import SpecError

NOISE = "noise"
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
    return Check(layer=NOISE, name=f"{where}: {name}", found=float(found), low=float(low), high=float(high))


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


INCLUSION = "inclusion"


def inclusion_checks(included: np.ndarray, *, sample_rate: float) -> tuple[Check, ...]:
    """Checks of the batches drawn. included: (steps, records) bool; 0 < sample_rate < 1.

    Sampling that is not Poisson has batches of the wrong spread (shuffling: none at all; one seed on W workers: W
    times the variance), the wrong rate, pairs that go together, or steps that remember each other.
    """
    included = np.asarray(included, dtype=bool)
    if included.ndim != 2 or min(included.shape) < 20 or not 0 < sample_rate < 1:
        raise SpecError(f"got {included.shape} at rate {sample_rate}; expected 20 steps of 20 records, rate in (0, 1)")
    steps, records = included.shape
    per_record, sizes = included.sum(0), included.sum(1)
    variance = records * sample_rate * (1 - sample_rate)
    low, high = (stats.chi2.ppf(p, steps) / steps for p in (ALARM / 4, 1 - ALARM / 4))
    counts = included.astype(np.float64)
    return (
        _binomial("share of records included", per_record.sum(), steps * records, sample_rate),
        _extreme("rarest record", per_record.min(), steps, sample_rate, records, is_low=True),
        _extreme("most frequent record", per_record.max(), steps, sample_rate, records, is_low=False),
        Check(
            layer=INCLUSION,
            name="variance of the batch size over N q (1 - q)",
            found=float(np.square(sizes - records * sample_rate).mean() / variance),
            low=float(low * 0.9),  # room for the binomial not being normal
            high=float(high * 1.1),
        ),
        _most_shared("steps that two records share", counts.T, sample_rate),
        _most_shared("records that two steps share", counts, sample_rate),
        _memory(counts, sample_rate),
    )


def _binomial(name: str, hits: int, trials: int, p: float) -> Check:
    low, high = stats.binom.ppf(ALARM / 2, trials, p), stats.binom.isf(ALARM / 2, trials, p)
    return Check(layer=INCLUSION, name=name, found=hits / trials, low=float(low / trials), high=float(high / trials))


def _extreme(name: str, hits: int, trials: int, p: float, num_looks: int, *, is_low: bool) -> Check:
    if is_low:
        low = stats.binom.ppf(ALARM / num_looks, trials, p)
        return Check(layer=INCLUSION, name=f"steps of the {name}", found=float(hits), low=float(low))
    high = stats.binom.isf(ALARM / num_looks, trials, p)
    return Check(layer=INCLUSION, name=f"steps of the {name}", found=float(hits), high=float(high))


def _most_shared(name: str, rows: np.ndarray, sample_rate: float) -> Check:
    """The largest overlap of two rows, against Binomial(n, q^2), exact however small q is."""
    overlap = rows @ rows.T
    np.fill_diagonal(overlap, 0)
    num_pairs = len(rows) * (len(rows) - 1) // 2
    high = stats.binom.isf(ALARM / num_pairs, rows.shape[1], sample_rate**2)
    return Check(layer=INCLUSION, name=f"most {name}", found=float(overlap.max()), high=float(high))


def _memory(counts: np.ndarray, sample_rate: float) -> Check:
    """Records that neighbouring steps share, in standard errors: fewer when a record waits for its next turn.

    sum_t sum_i (b_ti - q)(b_t+1,i - q) has mean 0 and variance (T - 1) N (q (1 - q))^2.
    """
    centred = counts - sample_rate
    total = (centred[1:] * centred[:-1]).sum()
    steps, records = counts.shape
    error = np.sqrt((steps - 1) * records) * sample_rate * (1 - sample_rate)
    z = float(stats.norm.isf(ALARM / 2))
    name = "memory from one step to the next, in standard errors"
    return Check(layer=INCLUSION, name=name, found=float(total / error), low=-z, high=z)
