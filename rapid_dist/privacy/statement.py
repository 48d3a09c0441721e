"""The statement that goes with every artefact of class dp: the promise, how it was counted, what it leaves out."""

from __future__ import annotations

from typing import Any

from rapid_dist.privacy.accounting import check_agreement, compute_epsilon
from rapid_dist.privacy.ledger import Ledger
from rapid_dist.privacy.plan import PrivacyPlan

ASSUMPTIONS = (
    "sample rate, clipping norm, noise, number of steps and the nominal size were fixed beforehand and are public",
    "the number of classes and the proportions sampled are public statements, not counted on the private data",
    "public images, and everything trained on them, are not protected; a person in both sets is unprotected there",
    "how long stages took, in logs, manifests and reports, is not protected",
    "the epsilon of any one person is the stated one only if that person contributed one unit",
)


def not_private_reasons(plan: PrivacyPlan) -> tuple[str, ...]:
    """Why nothing here may be called private; empty in a normal run."""
    return () if plan.is_private else ("deterministic noise: a fixed debugging key was used, so anyone can remove it",)


def build_statement(plan: PrivacyPlan, ledger: Ledger) -> dict[str, Any]:
    """The statement as plain JSON values, epsilon computed from the ledger alone.

    Raises PrivacyError when the accountants disagree: a number that two of three doubt is not printed.

    Guarantee: covers every charge in the ledger, of every attempt, used or not.
    """
    ledger.refresh()
    charges = ledger.charges
    result = compute_epsilon(charges, delta=plan.target_delta)
    check_agreement(result)
    reasons = not_private_reasons(plan)
    words = (
        f"The synthetic images are ({result.pld:.4g}, {plan.target_delta:g})-differentially private with respect to "
        f"adding or removing {plan.unit} of the private data."
    )
    return {
        "words": "NOT PRIVATE: " + "; ".join(reasons) if reasons else words,
        "epsilon": result.pld,
        "delta": plan.target_delta,
        "target_epsilon": plan.target_epsilon,
        "neighboring_relation": plan.neighboring_relation,
        "unit": plan.unit,
        "sampler": "Poisson, keyed by record",
        "mechanisms": [charge.to_dict() for charge in charges],
        "accountants": {"pld": result.pld, "prv": result.prv, "rdp": result.rdp, "versions": dict(result.versions)},
        "noise_hardening": "ChaCha20 stream, float64, sum of four draws, rounded to a grid after adding",
        "assumptions": list(ASSUMPTIONS),
        "outside_guarantee": ["numbers computed from private references in evaluation, which are marked there"],
        "not_private_reasons": list(reasons),
        "ledger_head": ledger.head,
    }
