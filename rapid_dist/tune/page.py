"""A study as one HTML page that needs nothing else: no script, no network, and no number its mode must not show."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from rapid_dist.errors import InputError
from rapid_dist.evaluation.page import MAX_PAGE_BYTES
from rapid_dist.evaluation.wording import format_delta, format_epsilon, format_seconds
from rapid_dist.specs.parsing import require_choice
from rapid_dist.tune import wording as modes_text
from rapid_dist.tune.trials import STATUSES, TrialRow, best_row, by_score, without_times
from rapid_dist.tune.wording import score_words, table_cells

REQUIRED_KEYS = frozenset(
    ("name", "mode", "objective", "searcher", "scheduler", "num_trials", "space", "base", "reused", "best", "transfer")
)
MAX_ROWS = 200
PICTURES = {
    "score_over": "Score over one setting. Filled: finished trials. Hollow: not finished. Dashed: the default.",
    "noise_over_steps": "Noise multiplier against steps. Larger marks: larger batches. Colour: score.",
    "parallel_coordinates": "One line for each trial across all settings. Colour and last axis: score. Grey: no score.",
}


def study_page(
    study: Mapping[str, Any],
    rows: Sequence[TrialRow],
    statement: Mapping[str, Any] | None,
    pictures: Mapping[str, bytes],
) -> str:
    """Returns the page of a study; text from specs and trials is escaped.

    study: REQUIRED_KEYS, with mode None when the spec named none, space as a spec writes it and reused a list of
    {what, times, seconds_saved}. statement: words, epsilon, delta, and where present target_epsilon, sentences,
    assumptions and not_private_reasons. pictures: name (a key of PICTURES, perhaps with an ending) -> PNG.
    Raises InputError for missing keys, SpecError for an unknown mode, InputError when the page would pass 2 MB.

    Guarantee: without a named mode the statement, the transfer and all settings named epsilon are left out, and under
    repeat_select everything that comes from rows, pictures and reused, whatever is handed over. How long trials took
    is shown under public_proxy alone: other trials read private images.
    """
    missing = sorted(REQUIRED_KEYS - set(study))
    if missing:
        raise InputError(f"the study lacks {missing}; expected {sorted(REQUIRED_KEYS)}")
    mode = study["mode"]
    if mode is not None:
        require_choice("study mode", mode, modes_text.MODES)
    secret, unnamed = mode == "repeat_select", mode is None
    shown = [] if secret else by_score(rows)[:MAX_ROWS]
    if mode not in ("public_proxy", None):  # unnamed, a study is one of public_proxy
        shown = without_times(shown)
    page = (
        _environment()
        .get_template("study.html.j2")
        .render(
            study=study,
            words=modes_text,
            mode_rows=[] if unnamed else list(modes_text.MODES[mode].items()),
            is_secret=secret,
            space=[(key, modes_text.axis_words(axis)) for key, axis in study["space"].items()],
            compared=[] if study["best"] is None else compare_settings(study["base"], study["best"], unnamed),
            best_words=None if secret else _best_words(best_row(rows)),
            counts=[] if secret else count_statuses(rows),
            table=table_cells(shown, show_epsilon=not unnamed),
            reasons=[(row.trial, row.reason) for row in shown if row.reason] if mode == "public_proxy" else [],
            num_shown=len(shown),
            num_rows=len(rows),
            pictures=[] if secret else _pictures(pictures, unnamed),
            reused=[] if secret else _reused_rows(study["reused"]),
            saved=format_seconds(sum(item["seconds_saved"] for item in study["reused"])),
            statement=None if unnamed else statement,
            transfer="" if unnamed else study["transfer"],
            promise=[] if unnamed or statement is None else promise_rows(statement),
            sentences=[] if unnamed or statement is None else _sentences(statement),
        )
    )
    size = len(page.encode())
    if size > MAX_PAGE_BYTES:
        raise InputError(f"the page is {size:,} bytes, over {MAX_PAGE_BYTES:,}; use fewer or smaller pictures")
    return page


def compare_settings(
    base: Mapping[str, Any], best: Mapping[str, Any], hide_epsilon: bool = False
) -> list[tuple[str, str, str, bool]]:
    """(key, base's value, best's value, whether they differ) for every key of either; a dash where one lacks it."""
    keys = [key for key in dict.fromkeys((*base, *best)) if not (hide_epsilon and "epsilon" in key)]

    def words(settings: Mapping[str, Any], key: str) -> str:
        return modes_text.value_words(settings[key]) if key in settings else "-"

    return [(key, words(base, key), words(best, key), words(base, key) != words(best, key)) for key in keys]


def count_statuses(rows: Sequence[TrialRow]) -> list[tuple[str, int]]:
    """(status, how many rows) for each status that occurs."""
    counts = [(status, sum(row.status == status for row in rows)) for status in STATUSES]
    return [(status, count) for status, count in counts if count]


def promise_rows(statement: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, text) of the total, none of it rounded down; empty when the statement says NOT PRIVATE."""
    if statement.get("not_private_reasons") or statement.get("epsilon") is None:
        return []
    rows = [("Epsilon, everything released together", format_epsilon(statement["epsilon"]))]
    if statement.get("target_epsilon") is not None:
        rows.append(("Target epsilon", format_epsilon(statement["target_epsilon"])))
    if statement.get("delta") is not None:
        rows.append(("Delta", format_delta(statement["delta"])))
    rows += [(label, str(statement[key])) for key, label in _FACTS.items() if statement.get(key)]
    return rows


_FACTS = {"unit": "Who is protected", "neighboring_relation": "Neighbouring data", "ledger_head": "Last ledger entry"}


def _sentences(statement: Mapping[str, Any]) -> list[str]:
    """The words, then the sentences that do not repeat them."""
    return list(
        dict.fromkeys([*([statement["words"]] if statement.get("words") else []), *statement.get("sentences", [])])
    )


def _best_words(best: TrialRow | None) -> str:
    return (
        "No trial finished with a score."
        if best is None
        else f"Best trial: {best.trial}, score {score_words(best.score)}."
    )


def _pictures(pictures: Mapping[str, bytes], unnamed: bool) -> list[dict[str, str]]:
    """Those that may be shown; the one of noise names its epsilon, so it needs a named mode."""
    found = []
    for name, png in pictures.items():
        kind = next((kind for kind in PICTURES if name.startswith(kind)), None)
        if unnamed and kind == "noise_over_steps":
            continue
        uri = "data:image/png;base64," + base64.b64encode(png).decode()
        found.append({"name": name.replace("_", " "), "uri": uri, "caption": PICTURES.get(kind or "", "")})
    return found


def _reused_rows(reused: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    return [(item["what"], item["times"], format_seconds(item["seconds_saved"])) for item in reused]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("rapid_dist.tune", "templates"),
                jinja2.PackageLoader("rapid_dist.evaluation", "templates"),
            ]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
