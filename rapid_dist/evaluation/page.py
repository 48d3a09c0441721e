"""The report as one HTML page that needs nothing else: no script, no network, no private image."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from rapid_dist.errors import InputError
from rapid_dist.evaluation import wording
from rapid_dist.evaluation.report import ACCURACY_NAMES, LIKENESS_NAMES

MAX_PAGE_BYTES = 2_000_000
REQUIRED_KEYS = frozenset(
    (
        *("title", "target_epsilon", "spent_epsilon", "delta", "neighboring_relation", "unit", "statement", "odds"),
        *("num_images", "class_names", "accuracy", "accuracy_detail", *LIKENESS_NAMES, "fid_features"),
        *("copy_check", "denoiser_evaluations_per_image", "test_class", "reference_class"),
        *("assumptions", "not_private_reasons", "run_facts", "outside_guarantee", "privacy_class", "not_measured"),
    )
)
ACCURACY_LABELS = {
    "synthetic": "Synthetic images",
    "public_only": "Public images only",
    "real": "Private images, no privacy",
}
LIKENESS_WORDS = {
    "fid": ("Frechet distance (FID)", "0 is the same; lower is closer"),
    "precision": ("Precision", "share of synthetic images that look like some reference image; 1 is best"),
    "recall": ("Recall", "share of reference images that look like some synthetic image; 1 is best"),
    "density": ("Density", "as precision, counting neighbours; about 1 when alike, may pass 1"),
    "coverage": ("Coverage", "share of reference images with a synthetic one near; 1 is best"),
}


def render_report(report: Mapping[str, Any], *, grid_png: bytes | None) -> str:
    """Returns the page for what build_report or without_private_values returned, also after a trip through JSON.

    grid_png is a contact sheet of released (synthetic or public) images; the page cannot check that, and a private
    image must never be in it. Text from the report is escaped.
    Raises InputError when keys are missing or the page would pass 2 MB.
    """
    missing = sorted(REQUIRED_KEYS - set(report))
    if missing:
        raise InputError(f"the report lacks {missing}; make it with build_report")
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            words=wording,
            accuracy_rows=accuracy_rows(report),
            accuracy_axis=plot_axis([row[k] for row in accuracy_rows(report) for k in ("low", "high")]),
            accuracy_labels={name: ACCURACY_LABELS[name] for name in ACCURACY_NAMES},
            per_class=per_class_rows(report),
            likeness_words=LIKENESS_WORDS,
            copy_rows=copy_rows(report),
            grid_uri=None if grid_png is None else "data:image/png;base64," + base64.b64encode(grid_png).decode(),
        )
    )
    size = len(page.encode())
    if size > MAX_PAGE_BYTES:
        raise InputError(f"the page is {size:,} bytes, over {MAX_PAGE_BYTES:,}; use a smaller image grid")
    return page


def accuracy_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one plot row for each measured accuracy: label, value, low, high, is_reference."""
    details = ((name, report["accuracy_detail"][name]) for name in ACCURACY_NAMES)
    return [
        _plot_row(ACCURACY_LABELS[name], detail["accuracy"], detail, is_reference=name != "synthetic")
        for name, detail in details
        if detail is not None
    ]


def copy_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the one plot row of the copy check, or none when it was not measured."""
    found = report["copy_check"]
    if found is None:
        return []
    return [_plot_row("Closer to training", found["share_closer_to_train"], found, is_reference=False)]


def per_class_rows(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Returns (class name, one text for each of ACCURACY_NAMES); no rows when no per-class figure exists."""
    columns = [(report["accuracy_detail"][name] or {}).get("per_class", []) for name in ACCURACY_NAMES]
    num_classes = max(len(column) for column in columns)
    names = report["class_names"] or [str(k) for k in range(num_classes)]

    def cell(column: Sequence[float | None], k: int) -> str:
        return wording.format_percent(column[k]) if k < len(column) and column[k] is not None else "-"

    return [(str(names[k]), [cell(column, k) for column in columns]) for k in range(num_classes)]


def plot_axis(values: Sequence[float]) -> dict[str, Any]:
    """Returns low, high and about five ticks of round percentages around shares in [0, 1]."""
    if not values:
        return {"low": 0.0, "high": 1.0, "ticks": [0.0, 0.5, 1.0]}
    span = max(values) - min(values)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if 5 * s >= span)
    first = min(math.floor(min(values) / step), round(1 / step) - 1)
    last = max(first + 1, min(round(1 / step), math.ceil(max(values) / step)))
    ticks = [round(k * step, 4) for k in range(first, last + 1)]
    return {"low": ticks[0], "high": ticks[-1], "ticks": ticks}


def _plot_row(label: str, value: float, interval: Mapping[str, Any], *, is_reference: bool) -> dict[str, Any]:
    return {
        "label": label,
        "value": value,
        "low": interval["interval_low"],
        "high": interval["interval_high"],
        "is_reference": is_reference,
    }


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("rapid_dist.evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
