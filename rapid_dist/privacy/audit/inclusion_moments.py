"""Is every record in every batch by a coin of its own, with the planned chance? Poisson sampling, tested as such."""

from __future__ import annotations

import numpy as np
from scipy import stats

from rapid_dist.errors import SpecError
from rapid_dist.privacy.audit.checks import Check
from rapid_dist.privacy.audit.noise_moments import ALARM

LAYER = "inclusion"


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
            layer=LAYER,
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
    return Check(layer=LAYER, name=name, found=hits / trials, low=float(low / trials), high=float(high / trials))


def _extreme(name: str, hits: int, trials: int, p: float, num_looks: int, *, is_low: bool) -> Check:
    if is_low:
        low = stats.binom.ppf(ALARM / num_looks, trials, p)
        return Check(layer=LAYER, name=f"steps of the {name}", found=float(hits), low=float(low))
    high = stats.binom.isf(ALARM / num_looks, trials, p)
    return Check(layer=LAYER, name=f"steps of the {name}", found=float(hits), high=float(high))


def _most_shared(name: str, rows: np.ndarray, sample_rate: float) -> Check:
    """The largest overlap of two rows, against Binomial(n, q^2), exact however small q is."""
    overlap = rows @ rows.T
    np.fill_diagonal(overlap, 0)
    num_pairs = len(rows) * (len(rows) - 1) // 2
    high = stats.binom.isf(ALARM / num_pairs, rows.shape[1], sample_rate**2)
    return Check(layer=LAYER, name=f"most {name}", found=float(overlap.max()), high=float(high))


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
    return Check(layer=LAYER, name=name, found=float(total / error), low=-z, high=z)
