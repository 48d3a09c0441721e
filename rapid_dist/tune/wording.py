"""What a study says of itself in words: its mode in a sentence, its trials as a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rapid_dist.evaluation.wording import format_number
from rapid_dist.telemetry import Say, format_seconds, headed, say
from rapid_dist.tune.trials import TrialRow, by_score, space_keys

UNNAMED = (
    "The spec names no mode (tune.mode), so nothing says how the search is paid for, and no epsilon is printed. The "
    "search itself ran on public images only, as public_proxy does. Name one of public_proxy, repeat_select, compose "
    "and subset, and run again."
)
SECRET = (
    "How many trials ran, their settings, scores and times, and every trial but the best stay in the folder private/. "
    "The guarantee counts them as never seen: keep that folder inside. How long the study took hints at their number."
)
MODES: Mapping[str, Mapping[str, str]] = {
    "public_proxy": {
        "what": "The public images were divided: one part is the knowledge base, the other pretends to be private. "
        "Trials train with the same noise as a private run would, and no trial reads a private record.",
        "cost": "The search costs nothing. The total is what the one private run with the settings found will cost.",
        "assumes": "The public images need no protection; a person who is in both sets has none there. That settings "
        "found on the pretended data are good on the private data is a hope, not part of the guarantee.",
    },
    "repeat_select": {
        "what": "A secret number of candidates, drawn once from a law fixed beforehand, trained on the private data. "
        "Each drew its settings from the space by itself, none was stopped early, and only the best one leaves.",
        "cost": "The dataset's ledger was charged once, before the first trial, for the best of that many runs "
        "(Papernot and Steinke 2022, counted by RDP). That is more than one run, and far less than the sum of all.",
        "assumes": "All candidates have the same sample rate, steps and noise. Scores come from what a candidate "
        "released, or from a query that is part of its cost. The number of trials, the scores, the times and all "
        "candidates but the best stay secret.",
    },
    "compose": {
        "what": "Every trial trained on the private data as a job of the dataset's ledger. The searcher may learn "
        "from scores, and the scheduler may stop trials.",
        "cost": "All trials are added up in one account: finished, stopped, failed and restarted ones alike. "
        "Each trial's noise was set so that all of them together stay within the target; more trials, more noise.",
        "assumes": "Scores that steer the search are computed from what trials released, or are paid for. In return "
        "every trial, with its settings and score, may be shown.",
    },
    "subset": {
        "what": "Trials trained on a random part of the private data, which a secret key chose record by record. One "
        "final run then trains on all of it.",
        "cost": "Trials that together cost (e, d) on a part drawn with probability q cost "
        "(log(1 + q(exp(e) - 1)), q d) on the whole. The final run is calibrated to what is left.",
        "assumes": "Which records are in the part stays secret. Settings found on few records need not be the best "
        "on many.",
    },
}
OBJECTIVES: Mapping[str, str] = {
    "proxy_accuracy": "accuracy on held-out pretend-private images",
    "public_fid": "minus the Frechet distance to public images",
    "noisy_accuracy": "noisy accuracy on private images, paid for",
}


def objective_words(objective: str) -> str:
    """What a score is, for an axis; an unknown objective is shown by its name."""
    return OBJECTIVES.get(objective, objective)


def axis_words(axis: Any) -> str:
    """One dimension of a space as a spec writes it, in words: `16 to 256, whole numbers, even in the logarithm`."""
    if isinstance(axis, (list, tuple)):
        axis = {"choice": axis}
    if not isinstance(axis, Mapping):
        return value_words(axis)
    if "choice" in axis:
        return "one of " + ", ".join(value_words(v) for v in axis["choice"])
    laws = {
        "uniform": "even",
        "log": "even in the logarithm",
        "int": "whole numbers",
        "log_int": "whole numbers, even in the logarithm",
    }
    for kind, law in laws.items():
        if kind in axis:
            low, high = (value_words(v) for v in axis[kind])
            step = f" in steps of {value_words(axis['step'])}" if axis.get("step", 1) != 1 else ""
            return f"{low} to {high}, {law}{step}"
    return ", ".join(f"{key} {value_words(value)}" for key, value in axis.items())


def log_keys(space: Mapping[str, Any]) -> list[str]:
    """The settings of a space, as a spec writes it, that are searched evenly in the logarithm."""
    return [key for key, axis in space.items() if isinstance(axis, Mapping) and {"log", "log_int"} & set(axis)]


def value_words(value: Any) -> str:
    """One setting's value for people: numbers short, lists joined, nothing as `none`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return str(value) if abs(value) < 10_000 else format_number(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(value_words(v) for v in value) + "]"
    return str(value)


_MAX_CELL = 24
_COLUMNS = {
    "noise": "noise_multiplier",
    "batch": "expected_batch_size",
    "epsilon": "epsilon",
}
_OWN_NAMES = ("trial", "status", "score", "step", *_COLUMNS, "time")


def short_names(keys: Iterable[str], taken: Iterable[str] = _OWN_NAMES) -> dict[str, str]:
    """Each dotted key by the fewest of its last parts that tell it from the others and from the names taken."""
    keys = list(keys)
    names = {}
    for key in keys:
        parts = key.split(".")
        tails = (".".join(parts[-k:]) for k in range(1, len(parts) + 1))
        others = {
            ".".join(other.split(".")[-k:]) for other in keys if other != key for k in range(1, other.count(".") + 2)
        }
        names[key] = next((tail for tail in tails if tail not in others and tail not in set(taken)), key)
    return names


def table_lines(rows: Sequence[TrialRow], objective: str, *, top: int = 10, show_epsilon: bool = True) -> list[str]:
    """The best `top` rows as aligned text, best first, below a line that says what the score is.

    show_epsilon: False for a study whose mode was not named.
    """
    shown = by_score(rows)[:top]
    head, body = table_cells(shown, show_epsilon=show_epsilon)
    cells = [head, *[[_clip(cell) for cell in line] for line in body]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    texts = {"trial", "status"}
    lines = [
        "  ".join(
            cell.ljust(width) if name in texts else cell.rjust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]
    count = f"best {len(shown)} of {len(rows)} trials" if len(shown) < len(rows) else f"{len(rows)} trials"
    return [f"{count} by {_one_line(objective_words(objective))}; higher is better", *lines]


def table_cells(rows: Sequence[TrialRow], *, show_epsilon: bool = True) -> tuple[list[str], list[list[str]]]:
    """The heads and the cells of the table of trials, in the rows' order; columns that no row fills are left out."""
    keys = short_names(space_keys(rows))
    columns = {
        name: field
        for name, field in _COLUMNS.items()
        if any(getattr(row, field) is not None for row in rows) and (show_epsilon or name != "epsilon")
    }
    times = ["time"] if any(row.seconds is not None for row in rows) else []
    head = ["trial", "status", "score", *keys.values(), "step", *columns, *times]
    body = [
        [
            row.trial,
            row.status,
            score_words(row.score),
            *[value_words(row.proposal[key]) if key in row.proposal else "-" for key in keys],
            f"{row.step}/{row.steps}",
            *[
                "-" if getattr(row, field) is None else _number(name, getattr(row, field))
                for name, field in columns.items()
            ],
            *["-" if row.seconds is None else format_seconds(row.seconds) for _ in times],
        ]
        for row in rows
    ]
    return [_one_line(name) for name in head], [[_one_line(cell) for cell in line] for line in body]


def score_words(score: float | None) -> str:
    """A score with four decimals below 10, as fits an accuracy; a dash where there is none."""
    if score is None:
        return "-"
    return f"{score:.4f}" if abs(score) < 10 else f"{score:.2f}"


class LiveTable:
    """Says one line on stderr for each thing that happens to a trial, with the best score so far.

    secret: for mode repeat_select. Guarantee: then it says one line in all, at the first event, so that nobody who
    sees the output learns how many trials there are, when they begin or end, or what they score.
    """

    def __init__(self, name: str, *, num_trials: int | None = None, secret: bool = False, say_fn: Say = say):
        self._name, self._num_trials, self._secret, self._say = name, num_trials, secret, say_fn
        self._best: tuple[float, str] | None = None
        self._ended: set[str] = set()
        self._said_at_work = False

    def goes_on(self, rows: Sequence[TrialRow]) -> None:
        """Counts the trials that ended before the study was cut off, without a word."""
        for row in rows:
            if row.status in ("finished", "stopped", "failed"):
                self._count(row)

    def _count(self, row: TrialRow) -> None:
        self._ended.add(row.trial)
        if row.status == "finished" and row.score is not None and (self._best is None or row.score > self._best[0]):
            self._best = (row.score, row.trial)

    def began(self, row: TrialRow) -> None:
        """A trial starts, or starts again; the row has the attempts before this one."""
        keys = short_names(row.proposal)
        settings = ", ".join(f"{keys[key]} {value_words(value)}" for key, value in row.proposal.items())
        again = f" again (attempt {row.attempts + 1})" if row.attempts else ""
        self._event(f"{row.trial} began{again}: {settings}")

    def rung(self, trial: str, step: int, score: float) -> None:
        """A trial was scored on its way."""
        if not self._secret:
            self._event(f"{trial} at step {step}: {score_words(score)}{self._beside_best()}")

    def ended(self, row: TrialRow) -> None:
        """A trial finished, was stopped by the scheduler, or failed for good."""
        if self._secret:
            self._event("")
            return
        self._count(row)
        what = f"{row.trial} {row.status}"
        if row.status == "failed":
            what += f": {row.reason or 'no reason was given'}"
        elif row.score is not None:
            took = "" if row.seconds is None else f" in {format_seconds(row.seconds)}"
            what += f": {score_words(row.score)}{took}"
        of = f"/{self._num_trials}" if self._num_trials is not None else ""
        self._event(f"{what}  {len(self._ended)}{of} done{self._beside_best()}")

    def _beside_best(self) -> str:
        return f"  best {score_words(self._best[0])} ({self._best[1]})" if self._best else ""

    def _event(self, text: str) -> None:
        if not self._secret:
            self._say(headed(self._name, _one_line(text)))
        else:
            self.say_at_work()

    def say_at_work(self) -> None:
        """The one line of a secret study."""
        if not self._said_at_work:
            self._said_at_work = True
            self._say(headed(self._name, "at work; how many trials there are and what they score stays secret"))


def _number(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "batch" else f"{value:.4g}"


def _one_line(text: Any) -> str:
    return re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in str(text))).strip()


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
