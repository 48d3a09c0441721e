"""Epsilon by Opacus's PRV code (Gopi, Lee and Wutschitz 2021): the two-sided check of PLD, and only that."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rapid_dist.privacy.replace_one import ReplaceOneLoss

PRV_EPSILON_ERROR = 0.01
_MAX_POINTS = 2**25


def epsilon_prv(
    mechanisms: Sequence[tuple[float, float, int]],
    delta: float,
    *,
    is_replace_one: bool,
    epsilon_rdp_fn: Callable[[Sequence[tuple[float, float, int]], float], float],
) -> tuple[float | None, str | None]:
    """The upper end of PRV's interval of half-width 0.01, or None and the reason.

    mechanisms: (sample_rate, noise_multiplier, num_steps), at least one. epsilon_rdp_fn bounds their epsilon at a
    delta, which sets how wide the grid must be.
    """
    delta_error = delta / 1000
    num_steps = sum(n for *_, n in mechanisms)
    mesh = PRV_EPSILON_ERROR / math.sqrt(num_steps * math.log(12 / delta_error) / 2)
    if 2 * (epsilon_rdp_fn(mechanisms, delta_error / 8) + 3) / mesh > _MAX_POINTS:
        return None, "the PRV grid would be too large"
    try:
        with _quiet_opacus():
            if is_replace_one:
                value = _replace_one(mechanisms, delta, delta_error, mesh, epsilon_rdp_fn)
            else:
                value = _add_or_remove_one(mechanisms, delta, delta_error)
    except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        return None, f"{type(error).__name__}: {error}"
    return (None, "PRV gave NaN") if math.isnan(value) else (max(0.0, float(value)), None)


def _add_or_remove_one(mechanisms: Sequence[tuple[float, float, int]], delta: float, delta_error: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, q, n) for q, sigma, n in mechanisms]
    return accountant.get_epsilon(delta, eps_error=PRV_EPSILON_ERROR, delta_error=delta_error)


def _replace_one(
    mechanisms: Sequence[tuple[float, float, int]],
    delta: float,
    delta_error: float,
    mesh: float,
    epsilon_rdp_fn: Callable[[Sequence[tuple[float, float, int]], float], float],
) -> float:
    """Opacus's grid, FFT and error bounds on the loss of the replace-one pair, which Opacus itself does not have.

    The half-width of the grid follows remark 5.6 of the paper, as in Opacus, with our own Renyi bounds.
    """
    from opacus.accountants.analysis import prv

    num_steps = sum(n for *_, n in mechanisms)
    single = max(epsilon_rdp_fn([(q, s, 1)], delta_error / (8 * num_steps)) for q, s, _ in mechanisms)
    half_width = max(epsilon_rdp_fn(mechanisms, delta_error / 4), single, PRV_EPSILON_ERROR) + 3
    domain = prv.Domain.create_aligned(-half_width, half_width, mesh)
    losses = [
        prv.TruncatedPrivacyRandomVariable(ReplaceOneLoss(q, s), domain.t_min, domain.t_max) for q, s, _ in mechanisms
    ]
    discrete = [prv.discretize(loss, domain) for loss in losses]
    together = prv.compose_heterogeneous(dprvs=discrete, num_self_compositions=[n for *_, n in mechanisms])
    return float(np.asarray(together.compute_epsilon(delta, delta_error, PRV_EPSILON_ERROR)[2]))


@contextlib.contextmanager
def _quiet_opacus() -> Iterator[None]:
    """Silences what Opacus's accountants say on valid input: log(1 - q) at q = 1, and RDP orders."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"opacus\.accountants")
        yield
