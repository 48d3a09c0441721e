"""The statement that goes with every artefact of class dp: the promise, how it was counted, what it leaves out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from rapid_dist.privacy.accounting import (
    EpsilonResult,
    check_agreement,
    compute_epsilon,
    epsilon_without_amplification,
    quick_epsilon,
)
from rapid_dist.privacy.charges import BoundedCharge, merge_charges
from rapid_dist.privacy.ledger import Ledger
from rapid_dist.privacy.limits import SEVERITIES, known_limits
from rapid_dist.privacy.plan import PrivacyPlan

STATEMENT_VERSION = 1
ASSUMPTIONS = (
    "sample rate, clipping norm, noise, number of steps and the nominal size were fixed beforehand and are public",
    "the number of classes and the proportions sampled are public statements, not counted on the private data",
    "public images, and everything trained on them, are not protected; a person in both sets is unprotected there",
    "how long stages that read private data took is not protected: it stays in the owner's own log and metrics",
    "the epsilon of any one person is the stated one only if that person contributed one unit",
)
OUTSIDE_GUARANTEE = (
    "numbers computed from private references in evaluation, which are marked there",
    "how long steps and stages took, in the owner's own log and metrics, and what memory and traffic they needed",
)
_CHANGES = {"add_or_remove_one": "adding or removing", "replace_one": "replacing"}
_LINE_LEAVES_OUT = ("sentences", "mechanisms", "assumptions", "limits", "severities")


def not_private_reasons(plan: PrivacyPlan) -> tuple[str, ...]:
    """Why nothing here may be called private; empty in a normal run."""
    return () if plan.is_private else ("deterministic noise: a fixed debugging key was used, so anyone can remove it",)


def build_statement(plan: PrivacyPlan, ledger: Ledger) -> dict[str, Any]:
    """The statement as plain JSON values, epsilon computed from the ledger alone.

    Raises PrivacyError when the accountants disagree: a number that two of three doubt is not printed.

    Guarantee: covers every charge in the ledger, of every attempt, used or not.
    """
    ledger.refresh()
    relation = plan.neighboring_relation
    return _state(plan, ledger, compute_epsilon(ledger.charges, delta=plan.target_delta, neighboring_relation=relation))


def statement_line(statement: Mapping[str, Any]) -> str:
    """The statement as one short line of JSON, for the metadata of a weights file; json.loads reads it back.

    Left out are single charges, assumptions, limits and all but the first sentence; the manifest has them.
    """
    short = {name: value for name, value in statement.items() if name not in _LINE_LEAVES_OUT}
    return json.dumps(short, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checkpoint_statement_line(plan: PrivacyPlan, ledger: Ledger) -> str:
    """statement_line of what the ledger says now, by the quick accountants: about 0.1 s, where the full one takes 2.

    Guarantee: as build_statement; its epsilon is an upper bound a little above the full statement's.
    """
    ledger.refresh()
    relation = plan.neighboring_relation
    result = quick_epsilon(ledger.charges, delta=plan.target_delta, neighboring_relation=relation)
    return statement_line(_state(plan, ledger, result))


def _state(plan: PrivacyPlan, ledger: Ledger, result: EpsilonResult) -> dict[str, Any]:
    check_agreement(result)
    charges, relation = ledger.charges, plan.neighboring_relation
    unamplified = epsilon_without_amplification(charges, plan.target_delta, neighboring_relation=relation)
    reasons = not_private_reasons(plan)
    bounded = [_bound_facts(charge) for charge in charges if isinstance(charge, BoundedCharge)]
    statement = {
        "statement_version": STATEMENT_VERSION,
        "epsilon": result.pld,
        "delta": plan.target_delta,
        "target_epsilon": plan.target_epsilon,
        "epsilon_without_amplification": unamplified if math.isfinite(unamplified) else None,
        "neighboring_relation": relation,
        "unit": plan.unit,
        "sampler": "Poisson, keyed by record",
        "mechanisms": [charge.to_dict() for charge in charges],
        "attempts": len(ledger.attempts),
        "accountants": _accountants(result),
        "bounds": bounded,
        "hardening_level": "floating_point_hardened" if plan.is_private else "none",
        "noise_hardening": "ChaCha20 stream, float64, sum of four draws, rounded to a grid after adding",
        "severities": dict(SEVERITIES),
        "limits": known_limits(max_grad_norm=plan.max_grad_norm, is_private=plan.is_private),
        "assumptions": list(ASSUMPTIONS),
        "outside_guarantee": list(OUTSIDE_GUARANTEE),
        "not_private_reasons": list(reasons),
        "ledger_head": ledger.head,
    }
    promise = (
        f"The synthetic images are ({_rounded_up(result.pld)}, {plan.target_delta:g})-differentially private with "
        f"respect to {_CHANGES[relation]} {plan.unit} of the private data."
    )
    if reasons:
        return {"words": "NOT PRIVATE: " + "; ".join(reasons), "sentences": [], **statement}
    num_steps = sum(c.num_steps for c in merge_charges(charges) if c.mechanism == "poisson_gaussian")
    return {"words": promise, "sentences": _sentences(statement, promise, num_steps), **statement}


def _accountants(result: EpsilonResult) -> dict[str, Any]:
    """The three numbers as JSON holds them: an accountant that cannot answer is None, and others counted the rest."""
    facts: dict[str, Any] = {
        "pld": result.pld,
        "prv": result.prv,
        "rdp": result.rdp if math.isfinite(result.rdp) else None,
        "versions": dict(result.versions),
    }
    if result.prv_reason:
        facts["prv_reason"] = result.prv_reason
    if result.of_gaussians is not None:
        facts["without_bounds"] = _accountants(result.of_gaussians)
    return facts


def _bound_facts(charge: BoundedCharge) -> dict[str, Any]:
    epsilon, delta = charge.bound
    return {"purpose": charge.purpose, "epsilon": epsilon, "delta": delta, "words": charge.words}


def _sentences(statement: Mapping[str, Any], promise: str, num_steps: int) -> list[str]:
    """The statement in words, after the first: what it covers, both epsilons, who counted, how the noise is made."""
    delta, accountants = statement["delta"], statement["accountants"]
    unamplified = statement["epsilon_without_amplification"]
    without = "no finite epsilon" if unamplified is None else f"epsilon {_rounded_up(unamplified)}"
    prv, rdp = (
        f"{name.upper()} left out"
        if accountants[name] is None
        else f"{_rounded_up(accountants[name])} by {name.upper()}"
        for name in ("prv", "rdp")
    )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(accountants["versions"].items()))
    return [
        promise,
        "The promise covers the release of every checkpoint, all synthetic images and all noisy counts together, "
        f"of every attempt ({statement['attempts']} so far), whether it was used or not.",
        f"Epsilon assuming Poisson sampling: {_rounded_up(statement['epsilon'])} at delta {delta:g}, over {num_steps} "
        "sampled steps. Sampling was Poisson: each record is in or out of a step by a secret keyed draw of its own.",
        f"Epsilon if each record took part once in every 1 / sample rate steps, in a known order: {without}. It is "
        "larger since it takes no credit for secret sampling; it is given to compare with pipelines that shuffle.",
        *_bound_sentences(statement["bounds"], accountants),
        f"Counts: {_rounded_up(accountants['pld'])} by PLD (stated), {prv}, {rdp} ({versions}).",
        f"Noise: {statement['noise_hardening']}.",
    ]


def _bound_sentences(bounds: Sequence[Mapping[str, Any]], accountants: Mapping[str, Any]) -> list[str]:
    """How each charge that is known by its bound only came to its number, and who checked the rest."""
    if not bounds:
        return []
    each = [
        f"Counted by a proved bound, at most epsilon {_rounded_up(b['epsilon'])} at delta {_rounded_up(b['delta'])}: "
        f"{b['words']}."
        for b in bounds
    ]
    rest = _rounded_up(accountants["without_bounds"]["pld"])
    return [
        *each,
        "Such bounds are added to the other charges as the worst mechanism that has them. No second accountant can "
        f"check them; it checked the other charges, which alone come to epsilon {rest} at the same delta.",
    ]


def _rounded_up(value: float) -> str:
    """Four significant digits, never less than the value."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exact = Decimal(repr(value))
    return f"{exact.quantize(Decimal(1).scaleb(exact.adjusted() - 3), rounding=ROUND_CEILING):f}"
