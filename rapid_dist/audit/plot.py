"""The picture of an audit: the bounds beside the claims, the scores, and the errors an attacker has to make."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from dp_accounting import get_sigma_gaussian
from scipy.special import ndtr, ndtri

from rapid_dist.audit.battery import AuditResult, CanaryResult

_READINGS = (
    ("gdp", "GDP estimate", "o", "#1f77b4"),
    ("one_run", "one run", "s", "#2ca02c"),
    ("clopper_pearson", "Clopper-Pearson", "^", "#9467bd"),
)
_CLAIM = "#d62728"


def draw_plot(result: AuditResult) -> bytes:
    """A PNG of three panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    bounds, scores, errors = figure.subplots(1, 3)
    _draw_bounds(bounds, (result.full_batch, result.sampled))
    _draw_scores(scores, result.full_batch)
    _draw_errors(errors, result.full_batch)
    words = "passed" if result.passed else f"{len(result.violations)} violations"
    figure.suptitle(f"rapid-dist audit: {words}", fontsize=12)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    return data.getvalue()


def _draw_bounds(axes: Any, kinds: tuple[CanaryResult, ...]) -> None:
    for place, kind in enumerate(kinds):
        label = "claimed (ledger, PLD)" if place == 0 else None
        axes.hlines(kind.claimed_epsilon, place - 0.35, place + 0.35, color=_CLAIM, lw=2.5, label=label)
        for shift, (reading, words, marker, color) in zip((-0.2, 0.0, 0.2), _READINGS, strict=True):
            value = getattr(kind.bounds, reading)
            axes.plot(place + shift, value, marker, color=color, ms=8, label=words if place == 0 else None)
            axes.annotate(f"{value:.2f}", (place + shift, value), (0, -14), textcoords="offset points", ha="center")
        axes.annotate(f"{kind.claimed_epsilon:.2f}", (place, kind.claimed_epsilon), (0, 4), **_ABOVE, color=_CLAIM)
    axes.set_xticks(range(len(kinds)), [_setting(kind) for kind in kinds])
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.set_ylim(0, 1.45 * max(k.claimed_epsilon for k in kinds))
    axes.set_ylabel(f"epsilon at delta {kinds[0].setting['delta']:g}")
    axes.set_title("lower bounds must stay under the claim")
    axes.legend(fontsize=8, loc="upper right", ncols=2)


_ABOVE = {"textcoords": "offset points", "ha": "center"}


def _setting(kind: CanaryResult) -> str:
    s = kind.setting
    return f"q = {s['sample_rate']:g}, sigma = {s['noise_multiplier']:.3g}\n{s['steps']} steps"


def _draw_scores(axes: Any, kind: CanaryResult) -> None:
    edges = np.linspace(*np.quantile(kind.scores, (0.0005, 0.9995)), 50)
    for is_in, words, color in ((False, "canaries left out", "#7f7f7f"), (True, "canaries in the data", "#ff7f0e")):
        axes.hist(kind.scores[kind.is_in == is_in], edges, density=True, alpha=0.6, color=color, label=words)
    axes.set_xlabel("score: sum of released values at the canary")
    axes.set_yticks([])
    axes.set_title("what an attacker sees")
    axes.legend(fontsize=8)


def _draw_errors(axes: Any, kind: CanaryResult) -> None:
    thresholds = np.quantile(kind.scores, np.linspace(0, 1, 400))
    inside, outside = np.sort(kind.scores[kind.is_in]), np.sort(kind.scores[~kind.is_in])
    false_negative = np.searchsorted(inside, thresholds, side="right") / len(inside)
    false_positive = 1 - np.searchsorted(outside, thresholds, side="right") / len(outside)
    axes.plot(false_positive, false_negative, "--", color="black", lw=1.5, zorder=3, label="seen")
    x = np.linspace(1e-6, 1 - 1e-6, 400)
    allowed = ndtr(-ndtri(x) - 1 / get_sigma_gaussian(kind.claimed_epsilon, kind.setting["delta"]))
    axes.fill_between(x, 0, allowed, color=_CLAIM, alpha=0.15, label="fewer errors than the claim allows")
    axes.plot(x, allowed, color=_CLAIM, lw=1)
    axes.set_xlabel("false positives")
    axes.set_ylabel("false negatives")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title(f"errors of the best test, {kind.name}", fontsize=11)
    axes.legend(fontsize=8)
