"""The privacy loss of Gaussian mechanisms when one record is replaced by another, not added or removed.

Worst case: with inclusion probability q and s the noise multiplier, P = (1 - q) N(0, s^2) + q N(1, s^2) against
Q = (1 - q) N(0, s^2) + q N(-1, s^2). It dominates every pair of gradients u, v with |u|, |v| <= 1 in any dimension:
for a set A with N_0(A) = Phi(-t), Neyman and Pearson give N_u(A) <= Phi(1/s - t) and N_v(A) >= Phi(-1/s - t), both
equalities for the half-line x > s t, so P(A) - e^eps Q(A) is largest there. The loss of P against Q rises with x,
and mirroring x swaps the two, so one direction is enough.

dp_accounting's RDP is not used: it takes the sensitivity of an added record, half of what it is here (its issue 378).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp, ndtr

_MAX_POINTS = 2**18
_ROUNDING = 1e-13  # far above the rounding error of one log moment, far below what could be seen in epsilon


def renyi_divergences(sample_rate: float, noise_multiplier: float, orders: Sequence[float]) -> np.ndarray:
    """The Renyi divergence of the worst-case pair at each order above 1, (len(orders),) float64.

    Unsampled it is 2 order / s^2, that of a Gaussian with half the noise multiplier. Sampled it is an integral over
    a line, by the trapezoidal rule, which converges geometrically on this analytic integrand; an order whose grid
    would be too large gets the unsampled value, which is no smaller (divergence is quasi-convex).
    Guarantee: an upper bound for any two records with clipped gradients.
    """
    unsampled = 2.0 * np.asarray(orders, dtype=np.float64) / noise_multiplier**2
    if sample_rate == 1:
        return unsampled
    sampled = [_log_moment(sample_rate, noise_multiplier, a) / (a - 1) for a in orders]
    return np.minimum(unsampled, np.maximum(sampled, 0.0))


def _log_moment(sample_rate: float, noise_multiplier: float, order: float) -> float:
    """log E_Q[(P / Q)^order], infinite when it would take too many points. The line is in units of the noise."""
    shift = 1.0 / noise_multiplier
    width = min(1.0, noise_multiplier) / 8  # the ratio turns over within s units, each density within 1
    # The integrand is at most a sum of unit Gaussians centred between -shift and (2 order - 1) shift.
    low, high = -shift - 40.0, (2 * order - 1) * shift + 40.0
    if (high - low) / width > _MAX_POINTS:
        return math.inf
    x = np.arange(low, high, width)
    log_in, log_out = math.log(sample_rate), math.log1p(-sample_rate)
    with_one = np.logaddexp(log_out, log_in + shift * x - shift**2 / 2)  # log P / N(0, 1)
    with_other = np.logaddexp(log_out, log_in - shift * x - shift**2 / 2)  # log Q / N(0, 1)
    base = -(x**2) / 2 - math.log(2 * math.pi) / 2 + math.log(width)
    return float(logsumexp(base + order * with_one + (1 - order) * with_other)) + _ROUNDING


class ReplaceOneLoss:
    """The privacy loss log P/Q(x), x ~ P, as the random variable that Opacus's PRV code discretises."""

    def __init__(self, sample_rate: float, noise_multiplier: float):
        self.sample_rate, self.noise_multiplier = sample_rate, noise_multiplier

    def cdf(self, loss: np.ndarray | float) -> np.ndarray:
        """P(log P/Q <= loss): the loss rises with x, so this is P's probability below the x that has that loss.

        With k = (1 - q) / q exp(1 / (2 s^2)) and x = s^2 (loss / 2 + log w), log P/Q(x) = loss reads
        w^2 - 2 k sinh(loss / 2) w - 1 = 0, so log w = asinh(k sinh(loss / 2)), taken without overflow.
        """
        q, s = self.sample_rate, self.noise_multiplier
        loss = np.asarray(loss, dtype=np.float64)
        log_w = np.zeros_like(loss)
        if q < 1:
            half = np.maximum(np.abs(loss) / 2, 1e-300)
            log_h = math.log1p(-q) - math.log(q) + 1 / (2 * s**2) + half + np.log(-np.expm1(-2 * half) / 2)
            log_w = np.where(log_h > 20, log_h + math.log(2), np.arcsinh(np.exp(np.minimum(log_h, 20.0))))
            log_w = np.copysign(log_w, loss)
        x = s**2 * (loss / 2 + log_w)
        return (1 - q) * ndtr(x / s) + q * ndtr((x - 1) / s)
