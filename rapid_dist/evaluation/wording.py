"""The table that ends a run on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from rapid_dist.evaluation.report import REASON_WITHHELD

ALMOST_SURE_ACCURACY = 0.95
"""Above this best-guess accuracy (epsilon about 3) the page says that the formal limit is loose."""

NO_PROOF = "Failing to find a leak is not proof that none exists."

CHANGE_WORDS = {
    "add_or_remove_one": "Adding or removing",
    "replace_one": "Replacing",
    "replace_special": "Blanking out",
}


def format_epsilon(epsilon: float | None) -> str:
    """Returns epsilon with two decimals rounded up, so that the page never promises more than was kept."""
    if epsilon is None:
        return "no limit"
    return str(Decimal(repr(float(epsilon))).quantize(Decimal("0.01"), rounding=ROUND_CEILING))


def format_percent(share: float) -> str:
    """Returns a measured share as percent, one decimal or as many as keep it apart from 0% and 100%."""
    percent = 100 * share
    edge = min(percent, 100 - percent)
    decimals = 1 if edge <= 0 or edge >= 0.1 else min(5, -math.floor(math.log10(edge)))
    return f"{percent:.{decimals}f}%"


def format_bound(share: float) -> str:
    """Returns an upper bound as percent, rounded up: two decimals, more near 0% and 100%."""
    percent = Decimal(repr(100 * share))
    edge = min(percent, 100 - percent)
    decimals = 2 if edge <= 0 or edge >= Decimal("0.1") else min(5, 1 - edge.adjusted())
    if percent > 50:
        decimals = max(2, decimals - 1)
    return f"{percent.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_CEILING)}%"


def format_factor(factor: float | None) -> str:
    """Returns an upper bound on a ratio, rounded up: two decimals below 100, then whole with separators."""
    if factor is None:
        return "e^epsilon"
    if factor < 100:
        return str(Decimal(repr(factor)).quantize(Decimal("0.01"), rounding=ROUND_CEILING))
    return f"{math.ceil(factor):,}" if factor < 1e9 else _ceil_scientific(factor)


def format_delta(delta: float) -> str:
    """Returns delta with three significant digits, rounded up: 1e-5, 1.67e-6."""
    return "0" if delta == 0 else _ceil_scientific(delta)


def format_seconds(seconds: float) -> str:
    """Returns a duration in the largest fitting unit: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_number(value: Any) -> str:
    """Returns a number for a table: whole numbers with separators, others to four significant digits."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


def promise_sentences(report: Mapping[str, Any]) -> list[str]:
    """Returns the promise in plain words, with the odds that (epsilon, delta) permits.

    At budgets where a guess may be almost sure it says that the limit is loose; it never calls one strong.
    """
    if report["spent_epsilon"] is None or report["not_private_reasons"]:
        return ["This run makes no promise about anyone: " + "; ".join(report["not_private_reasons"]) + "."]
    odds, unit = report["odds"], report["unit"]
    change = CHANGE_WORDS.get(report["neighboring_relation"], "Changing")
    sentences = [
        f"{change} {unit} in the private data changes the chance of any outcome by a factor of at most "
        f"{format_factor(odds['odds_factor'])}, plus {format_delta(report['delta'])}. That is epsilon "
        f"{format_epsilon(report['spent_epsilon'])} at delta {format_delta(report['delta'])}.",
        f"Someone who knows everything else and must say, at even odds, whether {unit} was used "
        f"is right at most {format_bound(odds['best_guess_accuracy'])} of the time; tossing a coin is right 50%.",
        f"If they may wrongly name 1 in 100 that were not used, they find at most "
        f"{format_bound(odds['tpr_at_fpr_1_percent'])} of those that were; at 1 in 1,000, at most "
        f"{format_bound(odds['tpr_at_fpr_0_1_percent'])}.",
    ]
    if odds["best_guess_accuracy"] > ALMOST_SURE_ACCURACY:
        sentences.append(
            "The formal limit is loose at this epsilon: by itself it permits almost sure guesses. "
            "What the tests below found is no substitute; tests cannot prove safety."
        )
    return sentences


def statement_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (label, text) of how the epsilon came about, from the privacy statement; empty without one."""
    stated = report["statement"]
    if stated is None or report["not_private_reasons"]:
        return []
    unamplified = stated["epsilon_without_amplification"]
    return [
        ("Epsilon, assuming Poisson sampling", f"{format_epsilon(stated['epsilon'])}, the number stated"),
        (
            "Epsilon without credit for sampling",
            f"{format_epsilon(unamplified)}, if each record took part once in every 1 / sample rate steps, as known",
        ),
        ("Sampling", stated["sampler"]),
        ("Counted by", _accountant_words(stated["accountants"])),
        ("Attempts counted", format_number(stated["attempts"])),
        ("Noise", stated["noise_hardening"]),
        ("Hardening", stated["hardening_level"].replace("_", " ")),
        ("Last ledger entry", stated["ledger_head"]),
    ]


def limit_rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the known limits of the guarantee, worst first: severity, limit and handling."""
    return [] if report["statement"] is None else list(report["statement"]["limits"])


def severity_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (severity, what it means) for the severities that the limits use, worst first."""
    used = {limit["severity"] for limit in limit_rows(report)}
    return [(name, text) for name, text in (report["statement"] or {}).get("severities", {}).items() if name in used]


def outside_rows(report: Mapping[str, Any]) -> list[str]:
    """Returns what the statement says was computed outside the guarantee."""
    return [] if report["statement"] is None else list(report["statement"]["outside_guarantee"])


def _accountant_words(accountants: Mapping[str, Any]) -> str:
    """Returns each accountant's epsilon and the version that computed it; upper bounds, so rounded up."""
    names = (("pld", "PLD"), ("prv", "PRV"), ("rdp", "RDP"))
    numbers = [f"{label} {format_epsilon(accountants[name])}" for name, label in names if accountants[name] is not None]
    missing = [f"{label} not available" for name, label in names if accountants[name] is None]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(accountants["versions"].items()))
    return f"{', '.join([*numbers, *missing])} ({versions})"


def tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the four tiles of the summary; each has a label, a value and a reference to read it by."""
    return [_promise_tile(report), _usefulness_tile(report), _copy_tile(report), _images_tile(report)]


def why_missing(report: Mapping[str, Any], key: str) -> str:
    """Returns "Not measured: reason" for a null value, or "Not shown: ..." when it was only taken out."""
    return ": ".join(_missing_parts(report, key))


def _missing_parts(report: Mapping[str, Any], key: str) -> tuple[str, str]:
    reason = report["not_measured"].get(key, "no reason was recorded")
    return "Not shown" if reason == REASON_WITHHELD else "Not measured", reason


def _ceil_scientific(value: float) -> str:
    exact = Decimal(repr(float(value)))
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), rounding=ROUND_CEILING)
    return f"{rounded.scaleb(-rounded.adjusted()).normalize():f}e{rounded.adjusted()}"


def _promise_tile(report: Mapping[str, Any]) -> dict[str, str]:
    if report["spent_epsilon"] is None or report["not_private_reasons"]:
        return {"label": "Promise", "value": "None", "reference": "; ".join(report["not_private_reasons"])}
    best = format_bound(report["odds"]["best_guess_accuracy"])
    return {
        "label": "Promise",
        "value": f"epsilon {format_epsilon(report['spent_epsilon'])}, delta {format_delta(report['delta'])}",
        "reference": f"target {format_epsilon(report['target_epsilon'])}; a guess is right at most {best}, a coin 50%",
    }


def _usefulness_tile(report: Mapping[str, Any]) -> dict[str, str]:
    accuracy = report["accuracy"]
    names = (("public_only", "public data only"), ("real", "private data, without privacy"))
    beside = [f"{words} {format_percent(accuracy[n])}" for n, words in names if accuracy[n] is not None]
    if accuracy["synthetic"] is None:
        value, reason = _missing_parts(report, "accuracy.synthetic")
        return {"label": "Usefulness", "value": value, "reference": "; ".join([reason, *beside])}
    return {
        "label": "Usefulness",
        "value": f"{format_percent(accuracy['synthetic'])} accuracy",
        "reference": "; ".join(beside) or "no reference was measured",
    }


def _copy_tile(report: Mapping[str, Any]) -> dict[str, str]:
    found = report["copy_check"]
    if found is None:
        value, reason = _missing_parts(report, "copy_check")
        return {"label": "Copy check", "value": value, "reference": reason}
    closer = format_percent(found["share_closer_to_train"])
    return {
        "label": "Copy check",
        "value": f"{found['num_identical']:,} identical; {closer} closer to training",
        "reference": f"50% if nothing is copied; interval {format_percent(found['interval_low'])} to "
        f"{format_percent(found['interval_high'])}",
    }


def _images_tile(report: Mapping[str, Any]) -> dict[str, str]:
    calls = report["denoiser_evaluations_per_image"]
    reference = why_missing(report, "denoiser_evaluations_per_image")
    if calls is not None:
        per_image, full_run = format_number(calls["per_image"]), format_number(calls["full_run"])
        reference = f"{per_image} denoiser evaluations each; a full run {full_run}"
    if report["num_images"] is None:
        value, reason = _missing_parts(report, "num_images")
        return {"label": "Images made", "value": value, "reference": f"{reason}; {reference}"}
    return {"label": "Images made", "value": f"{report['num_images']:,}", "reference": reference}


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
