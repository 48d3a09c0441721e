"""Lower bounds on epsilon from the scores of canaries that a secret coin put in or left out.

Three readings of the same scores. Clopper-Pearson: the exact interval of the error rates of a threshold test
(Clopper and Pearson 1934; Jagielski et al., arXiv 2006.07709). One run: no independence of canaries needed
(Steinke, Nasr and Jagielski, arXiv 2305.08846, Theorem 5.2). GDP: the trade-off curve is taken for that of a
Gaussian mechanism (Nasr et al., arXiv 2302.07956), which is tight for Dirac canaries under independent noise but
is an estimate, not a certificate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from dp_accounting import get_epsilon_gaussian
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import binom, binomtest

from rapid_dist.errors import SpecError

SIGNIFICANCE = 0.01
_QUANTILES = (0.01, 0.05, 0.3, 0.5, 0.7, 0.95, 0.99)  # of the scores, where the tests cut
_SHARE_FOR_THRESHOLDS = 0.1
_GUESSED_SHARES = (0.02, 0.1, 0.4)  # of the canaries, on each side, that the one-run guesser dares to guess
_MOST_EPSILON = 100.0


@dataclass(frozen=True, kw_only=True)
class LowerBounds:
    """Each holds with probability 1 - significance: epsilon is at least this, if the reading's assumption holds."""

    clopper_pearson: float
    one_run: float
    gdp: float


def lower_bounds(scores: np.ndarray, is_in: np.ndarray, *, delta: float, significance: float) -> LowerBounds:
    """The three bounds. scores: (n,) float64, higher where a canary looks present; is_in: (n,) bool, the coins."""
    rates = threshold_error_rates(scores, is_in, significance=significance)
    mu = mu_of_rates(rates)
    return LowerBounds(
        clopper_pearson=epsilon_clopper_pearson(rates, delta=delta),
        one_run=epsilon_one_run(scores, is_in, delta=delta, significance=significance),
        gdp=float(get_epsilon_gaussian(1 / mu if mu > 0 else math.inf, delta)),
    )


def threshold_error_rates(scores: np.ndarray, is_in: np.ndarray, *, significance: float) -> np.ndarray:
    """Upper ends of (false positive rate, false negative rate) of each threshold test, (num_thresholds, 2).

    Thresholds are quantiles of the first tenth of the canaries, which then takes no further part; the significance
    is shared evenly by both rates of all thresholds (Bonferroni), so all ends hold together.
    Raises SpecError when the part that is left lacks canaries in or out.
    """
    scores, is_in = _checked(scores, is_in)
    first = int(len(scores) * _SHARE_FOR_THRESHOLDS)
    thresholds = np.unique(np.quantile(scores[:first], _QUANTILES))
    inside, outside = scores[first:][is_in[first:]], scores[first:][~is_in[first:]]
    if not len(inside) or not len(outside):
        raise SpecError(f"{len(inside)} canaries are in and {len(outside)} out; expected some of both")
    level = 1 - significance / (2 * len(thresholds))

    def upper_end(is_error: np.ndarray) -> float:
        test = binomtest(int(is_error.sum()), len(is_error), alternative="less")
        return float(test.proportion_ci(level, method="exact").high)

    return np.array([(upper_end(outside > t), upper_end(inside <= t)) for t in thresholds])


def epsilon_clopper_pearson(rates: np.ndarray, *, delta: float) -> float:
    """max ln((1 - FNR - delta) / FPR) over thresholds and both directions, at least 0.

    (epsilon, delta) privacy says TPR <= e^epsilon FPR + delta, and the same with in and out exchanged.
    """
    best = 0.0
    for a, b in (*rates, *rates[:, ::-1]):
        if 1 - b - delta > 0:
            best = max(best, math.log((1 - b - delta) / a))
    return best


def mu_of_rates(rates: np.ndarray) -> float:
    """max Phi^-1(1 - FPR) - Phi^-1(FNR), at least 0: the Gaussian mechanism that these errors need (GDP)."""
    with np.errstate(invalid="ignore"):
        mu = -ndtri(rates[:, 0]) - ndtri(rates[:, 1])
    return float(np.max(mu, initial=0.0, where=np.isfinite(mu)))


def epsilon_one_run(scores: np.ndarray, is_in: np.ndarray, *, delta: float, significance: float) -> float:
    """The largest epsilon that the guesser's success refutes, over three shares guessed, at least 0.

    The k highest scores are guessed in, the k lowest out, the rest not. If the mechanism were private,
    P[at least v of r right] <= beta + 2 m delta max_i (P[Bin >= v - i] - beta) / i with
    Bin ~ Binomial(r, e^eps / (1 + e^eps)) and beta = P[Bin >= v] (Theorem 5.2). Canaries of several independent
    runs on disjoint data may be pooled: together the runs are one mechanism with the same guarantee.
    """
    scores, is_in = _checked(scores, is_in)
    order = np.argsort(scores, kind="stable")
    best = 0.0
    for share in _GUESSED_SHARES:
        k = max(1, int(len(scores) * share))
        right = int(is_in[order[-k:]].sum() + (~is_in[order[:k]]).sum())
        found = _refuted_epsilon(len(scores), 2 * k, right, delta, significance / len(_GUESSED_SHARES))
        best = max(best, found)
    return best


def one_run_p_value(num_canaries: int, num_guesses: int, num_right: int, epsilon: float, delta: float) -> float:
    """The bound of Theorem 5.2 on the chance of num_right or more right guesses."""
    p = 1 / (1 + math.exp(-epsilon))
    tails = binom.sf(num_right - 1 - np.arange(num_right + 1), num_guesses, p)  # P[Bin >= v - i], i = 0..v
    alpha = np.max((tails[1:] - tails[0]) / np.arange(1, num_right + 1), initial=0.0)
    return float(min(1.0, tails[0] + 2 * num_canaries * delta * alpha))


def _refuted_epsilon(num_canaries: int, num_guesses: int, num_right: int, delta: float, significance: float) -> float:
    def excess(epsilon: float) -> float:
        return one_run_p_value(num_canaries, num_guesses, num_right, epsilon, delta) - significance

    if excess(0.0) > 0:
        return 0.0
    return _MOST_EPSILON if excess(_MOST_EPSILON) <= 0 else float(brentq(excess, 0.0, _MOST_EPSILON, xtol=1e-6))


def _checked(scores: np.ndarray, is_in: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, is_in = np.asarray(scores, dtype=np.float64), np.asarray(is_in, dtype=bool)
    if scores.ndim != 1 or scores.shape != is_in.shape or len(scores) < 100:
        raise SpecError(f"got {scores.shape} scores and {is_in.shape} coins; expected one of each for 100 canaries")
    if not np.isfinite(scores).all():
        raise SpecError("a score is not finite; the released sums it comes from must be")
    return scores, is_in
