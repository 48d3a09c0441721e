"""Charges in dp_accounting's words, and what of them changes a number."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import dp_accounting

from rapid_dist.errors import SpecError
from rapid_dist.privacy.charges import AnyCharge, BoundedCharge, Charge, merge_charges

_MOST_NOISE_MULTIPLIER = 1e6  # above it accountants lose digits: more noise is counted as this much


class ChargeKey(NamedTuple):
    """All of some charges that changes a number, whatever their order.

    gaussians: (mechanism, sample_rate, noise_multiplier, num_steps) each. bounds: (epsilon, delta) each.
    """

    gaussians: tuple[tuple[str, float, float, int], ...]
    bounds: tuple[tuple[float, float], ...] = ()

    @property
    def num_steps(self) -> int:
        """num_steps of all Gaussian mechanisms together."""
        return sum(n for *_, n in self.gaussians)


def charge_key(charges: Iterable[AnyCharge]) -> ChargeKey:
    """Raises SpecError for anything but charges."""
    merged = merge_charges(charges)
    gaussians = tuple(
        (c.mechanism, c.sample_rate, min(c.noise_multiplier, _MOST_NOISE_MULTIPLIER), c.num_steps)
        for c in merged
        if isinstance(c, Charge)
    )
    return ChargeKey(gaussians, tuple(sorted(c.bound for c in merged if isinstance(c, BoundedCharge))))


def dp_event(charges: Iterable[Charge]) -> dp_accounting.DpEvent:
    """The charges in dp_accounting's words. Raises SpecError for anything but Gaussian charges."""
    key = charge_key(charges)
    if key.bounds:
        raise SpecError("a charge known only by a bound is no mechanism of dp_accounting; expected Gaussian charges")
    return event_of(key)


def event_of(key: ChargeKey) -> dp_accounting.DpEvent:
    """The Gaussian part of a key in dp_accounting's words."""
    events = [dp_accounting.SelfComposedDpEvent(_EVENTS[name](q, sigma), n) for name, q, sigma, n in key.gaussians]
    return dp_accounting.ComposedDpEvent(events)


def _gaussian(_: float, noise_multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.GaussianDpEvent(noise_multiplier)


def _poisson_gaussian(sample_rate: float, noise_multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.PoissonSampledDpEvent(sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier))


# The only events ever built; a mechanism missing here is a KeyError, not a free release.
_EVENTS = {"gaussian": _gaussian, "poisson_gaussian": _poisson_gaussian}


@contextlib.contextmanager
def quiet_absl() -> Iterator[None]:
    """Drops dp_accounting's note that an order was left out, which only loosens the bound."""

    def keep(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
