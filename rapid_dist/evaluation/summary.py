"""The table that ends a run on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in a few lines: promise, usefulness, likeness, cost."""
    spent = math.ceil(report["spent_epsilon"] * 100) / 100
    lines = [
        "",
        f"epsilon             {spent:.2f} of {report['target_epsilon']:g} at delta {report['delta']:g}"
        f" ({report['neighboring_relation']}, {report['unit']})",
    ]
    lines += [f"NOT PRIVATE         {reason}" for reason in report["not_private_reasons"]]
    for name, words in (("synthetic", "synthetic only"), ("public_only", "public only"), ("real", "real (ceiling)")):
        value = report["accuracy"][name]
        text = f"{value:.1%}" if value is not None else report["not_measured"].get(f"accuracy.{name}", "not measured")
        lines.append(f"accuracy            {text:<8} classifier trained on {words} images")
    if report["fid"] is not None:
        lines.append(
            f"likeness            FID {report['fid']:.2f} on {report['fid_features']['name']}, precision "
            f"{report['precision']:.2f}, recall {report['recall']:.2f}, density {report['density']:.2f}, "
            f"coverage {report['coverage']:.2f}"
        )
    evaluations = report["denoiser_evaluations_per_image"]
    if evaluations is not None:
        per_image, full = evaluations["per_image"], evaluations["full_run"]
        lines.append(f"evaluations/image   {per_image:g} of the denoiser; a full run takes {full:g}")
    seconds = report.get("stage_seconds") or {}
    lines += [f"seconds             {taken:>7.1f} {stage}" for stage, taken in seconds.items()]
    outside = list(dict.fromkeys(key.partition(".")[0] for key in report["outside_guarantee"]))
    if outside:
        lines.append("outside guarantee   from private images without noise, to be kept inside:")
        lines.append(f"                    {', '.join(outside)}")
    return lines
