"""The statement that goes with every artefact of class dp: the promise, how it was counted, what it leaves out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from typing import Any

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.accounting import (
    EpsilonResult,
    check_agreement,
    compute_epsilon,
    epsilon_pld,
    epsilon_without_amplification,
    quick_epsilon,
)
from rapid_dist.privacy.charges import AnyCharge, BoundedCharge, merge_charges
from rapid_dist.privacy.ledger import FIXED_KEY_REASON, LedgerView, attempt_reasons
from rapid_dist.privacy.noise import grid_for
from rapid_dist.privacy.plan import PrivacyPlan

CRITICAL, THEORETICAL, NEGLIGIBLE = "Critical", "Theoretical", "Negligible"
SEVERITIES = {
    CRITICAL: "the stated epsilon does not hold, and no attacker is needed for that",
    THEORETICAL: "the stated epsilon can fail in the worst case, against an active attacker with rare means",
    NEGLIGIBLE: "the stated epsilon holds up to an amount too small to matter, from rounding",
}


def known_limits(*, max_grad_norm: float, is_private: bool) -> list[dict[str, str]]:
    """What is known to remain, worst first: dicts of severity, limit and what is done about it."""
    fixed_key = (
        CRITICAL,
        "the noise and the sampling come from a fixed debugging key, so anyone can remove them",
        "nothing: everything this run makes is stamped NOT PRIVATE",
    )
    grid = grid_for(max_grad_norm)
    rows = (
        (
            THEORETICAL,
            "noise is made of float64 numbers, so its set of possible values differs a little from a Gaussian's",
            "each value is the sum of four 53-bit draws (arXiv 2107.10138), none of them drawn again whatever it is, "
            f"and the noisy sum is rounded to multiples of {grid:g} after adding (arXiv 2112.05307); an exact "
            "discrete Gaussian is not used",
        ),
        (
            THEORETICAL,
            "noise and sampling are as secret as ChaCha20, keyed BLAKE2b and the memory of driver and workers",
            "256-bit key from the operating system, fresh for every attempt, never on disk or in an artefact",
        ),
        (
            THEORETICAL,
            "the time and memory of a step depend on how many records it included",
            "times in the ledger are whole hours; logs, dashboards and traffic must be kept as private as the data",
        ),
        (
            THEORETICAL,
            "clipped gradients are added in floating point, so with contrived data one record may move the sum by "
            "rounding errors more than the clip",
            "norms and sums over micro-batches and workers are float64, sums inside a micro-batch full float32 even "
            "under autocast or TF32; a model that itself runs in less rounds to that, and kernels may round otherwise "
            "in another micro-batch",
        ),
        (
            NEGLIGIBLE,
            "accountants round",
            "PLD rounds towards more loss, and is refused when PRV or RDP contradicts it",
        ),
        (
            NEGLIGIBLE,
            "a sample rate is a multiple of 2^-64",
            "it is rounded down, which only lowers the loss",
        ),
    )
    return [
        {"severity": severity, "limit": limit, "handling": handling}
        for severity, limit, handling in (rows if is_private else (fixed_key, *rows))
    ]


STATEMENT_VERSION = 2
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


def not_private_reasons(plan: PrivacyPlan, scope: LedgerView | None = None) -> tuple[str, ...]:
    """Returns why nothing here may be called private; empty in a normal run.

    Guarantee: with a scope every attempt counted in it is looked at, not this plan alone: one attempt that is not
    private, by whatever job, makes all that is counted with it not private.
    """
    own = attempt_reasons(plan.to_plain())
    return own if scope is None else tuple(dict.fromkeys((*own, *scope.not_private_reasons)))


def build_statement(plan: PrivacyPlan, scope: LedgerView) -> dict[str, Any]:
    """Returns the statement as plain JSON values, epsilon computed from the ledger alone.

    Args:
        plan: What the job promises. Its target is replaced by that of the scope where the scope has one of its own.
        scope: What the ledger counts: that of the whole dataset, or, for a job, Ledger.scope_of(job).

    Guarantee: covers every charge in the scope, of every attempt, used or not; it also states what all jobs together
    have cost the dataset so far.
    Raises PrivacyError when the accountants disagree, since a number that two of three doubt is not printed, and when
    nothing was ever charged, since then nothing is known of what was used.
    """

    def count(charges: Sequence[AnyCharge], delta: float) -> EpsilonResult:
        return compute_epsilon(charges, delta=delta, neighboring_relation=plan.neighboring_relation)

    def total(charges: Sequence[AnyCharge], delta: float) -> float:
        return epsilon_pld(charges, delta, neighboring_relation=plan.neighboring_relation)

    return _state(plan, scope, count, total)


def statement_line(statement: Mapping[str, Any]) -> str:
    """The statement as one short line of JSON, for the metadata of a weights file; json.loads reads it back.

    Left out are single charges, assumptions, limits and all but the first sentence; the manifest has them.
    """
    short = {name: value for name, value in statement.items() if name not in _LINE_LEAVES_OUT}
    return json.dumps(short, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checkpoint_statement_line(plan: PrivacyPlan, scope: LedgerView) -> str:
    """statement_line of what the ledger says now, by the quick accountants: about 0.1 s, where the full one takes 2.

    Guarantee: as build_statement; its epsilon is an upper bound a little above the full statement's.
    Raises PrivacyError as build_statement does.
    """

    def count(charges: Sequence[AnyCharge], delta: float) -> EpsilonResult:
        return quick_epsilon(charges, delta=delta, neighboring_relation=plan.neighboring_relation)

    return statement_line(_state(plan, scope, count, lambda charges, delta: count(charges, delta).pld))


def _state(
    plan: PrivacyPlan,
    scope: LedgerView,
    count: Callable[[Sequence[AnyCharge], float], EpsilonResult],
    total: Callable[[Sequence[AnyCharge], float], float],
) -> dict[str, Any]:
    """The statement, by these accountants of the scope and of everything."""
    scope.refresh()
    charges, relation = scope.charges, plan.neighboring_relation
    if not charges:
        raise PrivacyError(
            f"{scope.uri} holds no charge of {scope.name}, so nothing can be stated about it: nothing fitted its "
            "budget any more, or the ledger was lost or swapped; restore the ledger, or use a new folder and a larger "
            "budget"
        )
    if scope.own_target is not None:
        plan = replace(plan, target_epsilon=scope.own_target[0], target_delta=scope.own_target[1])
    result = count(charges, plan.target_delta)
    check_agreement(result)
    unamplified = epsilon_without_amplification(charges, plan.target_delta, neighboring_relation=relation)
    reasons = not_private_reasons(plan, scope)
    is_hardened = FIXED_KEY_REASON not in reasons
    statement = {
        "statement_version": STATEMENT_VERSION,
        "epsilon": result.pld,
        "delta": plan.target_delta,
        "target_epsilon": plan.target_epsilon,
        "epsilon_without_amplification": unamplified if math.isfinite(unamplified) else None,
        "neighboring_relation": relation,
        "unit": plan.unit,
        "counted": scope.name,
        "sampler": "Poisson, keyed by record",
        "mechanisms": [charge.to_dict() for charge in charges],
        "attempts": len(scope.attempts),
        "dataset": _dataset_facts(scope.dataset, total),
        "accountants": _accountants(result),
        "bounds": [_bound_facts(charge) for charge in charges if isinstance(charge, BoundedCharge)],
        "hardening_level": "floating_point_hardened" if is_hardened else "none",
        "noise_hardening": "ChaCha20 stream, float64, sum of four draws, rounded to a grid after adding",
        "severities": dict(SEVERITIES),
        "limits": known_limits(max_grad_norm=plan.max_grad_norm, is_private=is_hardened),
        "assumptions": list(ASSUMPTIONS),
        "outside_guarantee": list(OUTSIDE_GUARANTEE),
        "not_private_reasons": list(reasons),
        "ledger_head": scope.head,
    }
    promise = (
        f"The synthetic images are ({_rounded_up(result.pld)}, {plan.target_delta:g})-differentially private with "
        f"respect to {_CHANGES[relation]} {plan.unit} of the private data."
    )
    if reasons:
        return {"words": "NOT PRIVATE: " + "; ".join(reasons), "sentences": [], **statement}
    num_steps = sum(c.num_steps for c in merge_charges(charges) if c.mechanism == "poisson_gaussian")
    return {"words": promise, "sentences": _sentences(statement, promise, num_steps), **statement}


def _dataset_facts(dataset: LedgerView, total: Callable[[Sequence[AnyCharge], float], float]) -> dict[str, Any]:
    """What all jobs together have cost the dataset so far; no epsilon where some of them are not private."""
    reasons, delta = dataset.not_private_reasons, dataset.target["target_delta"]
    return {
        "epsilon": None if reasons else total(dataset.charges, delta),
        "delta": delta,
        "target_epsilon": dataset.target["target_epsilon"],
        "jobs": len(dataset.jobs),
        "not_private_reasons": list(reasons),
    }


def _dataset_sentence(dataset: Mapping[str, Any]) -> str:
    if dataset["epsilon"] is None:
        return (
            f"Of all {dataset['jobs']} jobs on this dataset so far some are NOT PRIVATE "
            f"({'; '.join(dataset['not_private_reasons'])}), so no epsilon holds for all of them together."
        )
    return (
        f"Everything charged to this dataset so far, by all jobs ({dataset['jobs']}), comes to epsilon "
        f"{_rounded_up(dataset['epsilon'])} at delta {dataset['delta']:g}, of a budget of "
        f"{dataset['target_epsilon']:g}. That is the number to use for the results of all of them together, and for a "
        "run whose settings came from earlier ones."
    )


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
        f"of every attempt of {statement['counted']} ({statement['attempts']} so far), whether it was used or not.",
        _dataset_sentence(statement["dataset"]),
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
