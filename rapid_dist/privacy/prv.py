"""Epsilon by Opacus's PRV code (Gopi, Lee and Wutschitz 2021): the two-sided check of PLD, and only that."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence

PRV_EPSILON_ERROR = 0.01
_MAX_POINTS = 2**25


def epsilon_prv(
    mechanisms: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    epsilon_rdp_fn: Callable[[float], float],
) -> tuple[float | None, str | None]:
    """The upper end of PRV's interval of half-width 0.01, or None and the reason.

    mechanisms: (sample_rate, noise_multiplier, num_steps), at least one. epsilon_rdp_fn bounds their epsilon at a
    delta, which says how wide the grid must be.
    """
    delta_error = delta / 1000
    num_steps = sum(n for *_, n in mechanisms)
    mesh = PRV_EPSILON_ERROR / math.sqrt(num_steps * math.log(12 / delta_error) / 2)
    if 2 * (epsilon_rdp_fn(delta_error / 8) + 3) / mesh > _MAX_POINTS:
        return None, "the PRV grid would be too large"
    try:
        with _quiet_opacus():
            value = _add_or_remove_one(mechanisms, delta, delta_error)
    except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        return None, f"{type(error).__name__}: {error}"
    return (None, "PRV gave NaN") if math.isnan(value) else (max(0.0, float(value)), None)


def _add_or_remove_one(mechanisms: Sequence[tuple[float, float, int]], delta: float, delta_error: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, q, n) for q, sigma, n in mechanisms]
    return accountant.get_epsilon(delta, eps_error=PRV_EPSILON_ERROR, delta_error=delta_error)


@contextlib.contextmanager
def _quiet_opacus() -> Iterator[None]:
    """Silences what Opacus's accountants say on valid input: log(1 - q) at q = 1, and RDP orders."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"opacus\.accountants")
        yield
