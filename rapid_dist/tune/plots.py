"""The pictures of a study: score over one setting, noise against steps at equal epsilon, all settings at once."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from rapid_dist.tune.trials import TrialRow, best_row, space_keys
from rapid_dist.tune.wording import objective_words, short_names, value_words

PIXELS_WIDE = 1200
_DPI = 120
_GREY, _BLACK, _COLOURS = "#b0b0b0", "#222222", "viridis"
_NO_SCORE = "failed or not scored"


def score_over(
    rows: Sequence[TrialRow], key: str, objective: str, *, default: Any = None, is_log: bool = False
) -> bytes:
    """A PNG of the score over one setting, numbers on a scale and words side by side; unfinished trials are hollow.

    default: the base spec's value, marked by a dashed line.
    """
    figure, axes = _figure(5.2)
    scored = [row for row in rows if row.score is not None and row.proposal.get(key) is not None]
    scale = _Scale([row.proposal[key] for row in scored] + ([] if default is None else [default]), is_log=is_log)
    for kinds, face, words in (
        (True, "#0072b2", "finished"),
        (False, "none", "not finished"),
    ):
        points = [row for row in scored if (row.status == "finished") == kinds]
        if points:
            x = [scale.place(row.proposal[key]) for row in points]
            axes.scatter(
                x, [row.score for row in points], s=55, facecolor=face, edgecolor="#0072b2", label=words, zorder=3
            )
    best = best_row(scored)
    if best is not None:
        axes.scatter(scale.place(best.proposal[key]), best.score, s=170, facecolor="none", edgecolor="#d55e00", lw=2)
        axes.scatter([], [], s=110, facecolor="none", edgecolor="#d55e00", lw=2, label=_plain(f"best: {best.trial}"))
    if default is not None:
        axes.axvline(scale.place(default), color=_BLACK, ls="--", lw=1, zorder=1, label=f"default: {_short(default)}")
    if not scored:
        _say_nothing(axes, "no trial was scored")
    scale.dress(axes.xaxis, axes.set_xlim)
    axes.set_xlabel(_plain(key))
    axes.set_ylabel(_plain(objective_words(objective)))
    axes.set_title(_plain(f"Score over {key}"), loc="left")
    axes.margins(y=0.12)
    axes.grid(alpha=0.25)
    _legend_below(figure, axes)
    return _png(figure)


def noise_over_steps(rows: Sequence[TrialRow], target_epsilon: float | None) -> bytes:
    """A PNG of the noise multiplier against steps; size tells the batch, colour the score. All cost the same epsilon.

    target_epsilon: for the title; None when no epsilon may be printed.
    """
    figure, axes = _figure(5.2)
    drawn = [row for row in rows if row.noise_multiplier is not None and row.steps > 0]
    sizes = _sizes([row.expected_batch_size for row in drawn])
    scored = [(row, size) for row, size in zip(drawn, sizes, strict=True) if row.score is not None]
    others = [(row, size) for row, size in zip(drawn, sizes, strict=True) if row.score is None]
    for group, colours in ((others, None), (scored, [row.score for row, _ in scored])):
        if not group:
            continue
        x, y = [row.steps for row, _ in group], [row.noise_multiplier for row, _ in group]
        look = {"facecolor": "none", "edgecolor": _GREY, "label": _NO_SCORE}
        if colours is not None:
            low, high = _padded(colours)
            look = {"c": colours, "cmap": _COLOURS, "vmin": low, "vmax": high, "edgecolor": "white", "alpha": 0.9}
        marks = axes.scatter(x, y, s=[size for _, size in group], lw=1, zorder=3, **look)
        if colours is not None:
            figure.colorbar(marks, ax=axes, label="score, higher is better", pad=0.02)
    if drawn:
        steps = _Scale([row.steps for row in drawn], is_log=_spans_a_decade([row.steps for row in drawn]))
        steps.dress(axes.xaxis, axes.set_xlim)
        noise = _Scale([row.noise_multiplier for row in drawn], is_log=False)
        noise.dress(axes.yaxis, axes.set_ylim)
        _batch_legend(axes, [row.expected_batch_size for row in drawn], sizes)
    else:
        _say_nothing(axes, "no trial has a noise multiplier")
    target = "the same cost" if target_epsilon is None else f"a target epsilon of {target_epsilon:g}"
    axes.set_title(f"Noise against steps, calibrated to {target}", loc="left")
    axes.set_xlabel("training steps")
    axes.set_ylabel("noise multiplier")
    axes.grid(alpha=0.25)
    _legend_below(figure, axes)
    return _png(figure)


def parallel_coordinates(
    rows: Sequence[TrialRow], objective: str, *, log_keys: Collection[str] = (), keys: Sequence[str] | None = None
) -> bytes:
    """A PNG with one upright axis for each setting and the score, and one line for each trial, coloured by its score.

    log_keys: settings to show on a logarithmic scale. keys: which settings, in order; None: all that any row sets.
    Trials without a score are grey.
    """
    keys = list(space_keys(rows) if keys is None else keys)
    scores = [row.score for row in rows if row.score is not None]
    names = short_names(keys, taken=("score",))
    scales = [
        _Scale([r.proposal[k] for r in rows if r.proposal.get(k) is not None], is_log=k in log_keys) for k in keys
    ]
    scales.append(_Scale(scores, is_log=False))
    heads = [_plain(names[key]) for key in keys] + ["score"]
    figure, axes = _figure(5.8)
    low, high = _padded(scores)
    from matplotlib import colormaps

    ordered = sorted(rows, key=lambda row: (row.score is not None, row.score or 0.0))  # the best are drawn last, on top
    for row in ordered:
        values = [row.proposal.get(key) for key in keys] + [row.score]
        points = [(x, s.share(v)) for x, (s, v) in enumerate(zip(scales, values, strict=True)) if v is not None]
        if not points:
            continue
        good = row.score is not None and row.status != "failed"
        colour = colormaps[_COLOURS]((row.score - low) / (high - low)) if good else _GREY
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=colour, lw=1.8 if good else 1.2, alpha=0.85, marker="o", ms=3.5, zorder=3 if good else 2)
    _upright_axes(axes, heads, scales)
    if not rows:
        _say_nothing(axes, "no trials")
    best = best_row(rows)
    beside = "" if best is None else f"; best {best.trial} at {best.score:.4g}"
    title = f"All settings; colour and last axis: {objective_words(objective)}{beside}"
    axes.set_title(_plain(title), loc="left", fontsize=11, pad=42)
    if any(row.score is None or row.status == "failed" for row in rows):
        axes.text(0.0, -0.04, f"grey: {_NO_SCORE}", transform=axes.transAxes, color="#707070", fontsize=9, va="top")
    return _png(figure)


class _Scale:
    """Where values lie on an axis: numbers by size or logarithm, words at even distances in their order."""

    def __init__(self, values: Sequence[Any], *, is_log: bool):
        self.is_words = any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values)
        self.is_log = is_log and not self.is_words and bool(values) and min(values) > 0
        self.words = sorted({value_words(v) for v in values}) if self.is_words else []
        places = [self.place(v) for v in values]
        self.low, self.high = _padded([math.log10(p) for p in places] if self.is_log else places)
        self.distinct = sorted(set(places))

    def place(self, value: Any) -> float:
        """The value in the axis' own units."""
        return float(self.words.index(value_words(value))) if self.is_words else float(value)

    def share(self, value: Any) -> float:
        """The value between 0 and 1."""
        place = math.log10(self.place(value)) if self.is_log else self.place(value)
        return (place - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """At most ten (place, label), each a value that occurs where these are few."""
        if self.is_words:
            every = -(-len(self.words) // 10)
            return [(float(i), _short(word)) for i, word in enumerate(self.words)][::every]
        if len(self.distinct) <= 7 and self._are_apart():
            return [(v, f"{v:.4g}") for v in self.distinct]
        if self.is_log:
            return [(v, f"{v:.3g}") for v in (10**p for p in np.linspace(self.low, self.high, 5))]
        from matplotlib.ticker import MaxNLocator

        inside = [v for v in MaxNLocator(5).tick_values(self.low, self.high) if self.low <= v <= self.high]
        return [(float(v), f"{v:.5g}") for v in inside]

    def _are_apart(self) -> bool:
        shares = [((math.log10(v) if self.is_log else v) - self.low) / (self.high - self.low) for v in self.distinct]
        return all(b - a > 0.08 for a, b in itertools.pairwise(shares))

    def dress(self, axis: Any, set_limits: Any) -> None:
        """Gives a matplotlib axis this scale, its ticks and some room at the ends."""
        room = 0.06 * (self.high - self.low)
        ends = (self.low - room, self.high + room)
        if self.is_log:
            axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
            ends = (10 ** ends[0], 10 ** ends[1])
        set_limits(*ends)
        ticks = self.ticks()
        axis.set_ticks([place for place, _ in ticks], [label for _, label in ticks])
        axis.set_ticks([], minor=True)
        if self.is_words and axis.axis_name == "x" and sum(len(label) for _, label in ticks) > 70:
            axis.set_tick_params(rotation=20)


def _upright_axes(axes: Any, heads: Sequence[str], scales: Sequence[_Scale]) -> None:
    wide = max(8, round(92 / len(heads)))
    for x, (head, scale) in enumerate(zip(heads, scales, strict=True)):
        axes.axvline(x, color=_BLACK, lw=1, zorder=4)
        for place, label in scale.ticks():
            y = ((math.log10(place) if scale.is_log else place) - scale.low) / (scale.high - scale.low)
            axes.plot([x - 0.015, x], [y, y], color=_BLACK, lw=1, zorder=4)
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
            axes.text(x - 0.03, y, label, ha="right", va="center", fontsize=8.5, bbox=box, zorder=5)
        words = "\n".join(textwrap.wrap(head.replace("_", " "), wide)[:3]) + (" (log)" if scale.is_log else "")
        axes.text(x, 1.05, words, ha="center", va="bottom", fontsize=10, zorder=5)
    axes.set_xlim(-0.45, len(heads) - 0.85)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """The ends of the values, apart even when all are equal."""
    if not values:
        return 0.0, 1.0
    low, high = float(min(values)), float(max(values))
    room = max(abs(low) * 0.05, 1e-6) if high - low < 1e-12 * max(1.0, abs(high)) else 0.0
    return low - room, high + room


def _sizes(batches: Sequence[float | None]) -> list[float]:
    """Marker areas from 40 to 320 for batch sizes, in proportion between the least and the largest."""
    known = [b for b in batches if b is not None]
    if not known or max(known) == min(known):
        return [90.0] * len(batches)
    return [40.0 if b is None else 40 + 280 * (b - min(known)) / (max(known) - min(known)) for b in batches]


def _batch_legend(axes: Any, batches: Sequence[float | None], sizes: Sequence[float]) -> None:
    known = sorted({(size, batch) for size, batch in zip(sizes, batches, strict=True) if batch is not None})
    for size, batch in {known[0], known[-1]} if known else ():
        axes.scatter([], [], s=size, facecolor="none", edgecolor=_BLACK, label=f"batch {batch:.4g}")


def _spans_a_decade(values: Sequence[float]) -> bool:
    return max(values) >= 10 * min(values) > 0


def _short(value: Any, width: int = 14) -> str:
    """At most `width` characters of a value on one line."""
    text = " ".join(value_words(value).split()) or "(empty)"
    return _plain(text if len(text) <= width else text[: width - 1] + "…")


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def _say_nothing(axes: Any, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color="#707070")


def _legend_below(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PIXELS_WIDE / _DPI, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI, metadata={"Software": None})
    return data.getvalue()
