"""The modes of a study in words: what each does, costs and assumes; shared by the command line and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapid_dist.evaluation.wording import format_number

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
