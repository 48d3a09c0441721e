"""Made-up but plausible inputs of a report, shared by the tests of its data, words and page."""

from __future__ import annotations

from typing import Any

from rapid_dist.evaluation.classifier import AccuracyResult, wilson_interval
from rapid_dist.evaluation.copies import CopyCheckResult
from rapid_dist.evaluation.likeness import LikenessResult
from rapid_dist.evaluation.report import DenoiserEvaluations, Promise, build_report
from rapid_dist.privacy.statement import SEVERITIES, known_limits


def make_accuracy(accuracy: float, num_examples: int = 10_000) -> AccuracyResult:
    low, high = wilson_interval(accuracy * num_examples, num_examples)
    per_class = tuple(min(1.0, accuracy + 0.002 * (k - 4.5)) for k in range(10))
    return AccuracyResult(
        accuracy=accuracy, per_class=per_class, num_examples=num_examples, interval_low=low, interval_high=high
    )


LIKENESS = LikenessResult(
    fid=12.34,
    precision=0.81,
    recall=0.62,
    density=0.77,
    coverage=0.74,
    feature_name="public-cnn-128",
    feature_digest="ab" * 32,
    num_real=54_321,
    num_synthetic=60_000,
)

COPY_CHECK = CopyCheckResult(
    share_closer_to_train=0.507,
    interval_low=0.493,
    interval_high=0.521,
    median_distance_train=5.312,
    median_distance_holdout=5.329,
    num_identical=0,
    num_samples=5_000,
    num_references=5_000,
)

STATEMENT = {
    "statement_version": 1,
    "epsilon": 0.9934,
    "epsilon_without_amplification": 3.2109,
    "sampler": "Poisson, keyed by record",
    "attempts": 2,
    "accountants": {"pld": 0.9934, "prv": 1.0034, "rdp": 1.0851, "versions": {"dp-accounting": "0.6.0"}},
    "noise_hardening": "rounded to a grid after adding",
    "hardening_level": "floating_point_hardened",
    "severities": dict(SEVERITIES),
    "limits": known_limits(max_grad_norm=1.0, is_private=True),
    "outside_guarantee": ["how long steps took"],
    "ledger_head": "cd" * 32,
}


def make_inputs(**changes: Any) -> dict[str, Any]:
    inputs = {
        "title": "Synthetic digits",
        "promise": Promise(target_epsilon=1.0, spent_epsilon=0.9934, delta=1e-5),
        "num_images": 60_000,
        "accuracies": {
            "synthetic": make_accuracy(0.943),
            "public_only": make_accuracy(0.612),
            "real": make_accuracy(0.993),
        },
        "likeness": LIKENESS,
        "copy_check": COPY_CHECK,
        "denoiser_evaluations": DenoiserEvaluations(per_image=47, full_run=100),
        "stage_seconds": {
            "ingest": 4.2,
            "pretrain": 312.0,
            "knowledge base": 95.5,
            "train": 1810.0,
            "sample": 240.0,
            "evaluate": 88.0,
        },
        "test_class": "private",
        "reference_class": "private",
        "assumptions": ["The number of images is treated as public.", "Class counts are treated as public."],
        "class_names": [f"digit {k}" for k in range(10)],
        "statement": STATEMENT,
        "run_facts": {"run": "run-0001", "date (UTC)": "2026-01-02", "version": "0.1.0"},
    }
    return {**inputs, **changes}


def make_report(epsilon: float = 0.9934, target: float | None = None, **changes: Any) -> dict[str, Any]:
    promise = Promise(target_epsilon=epsilon if target is None else target, spent_epsilon=epsilon, delta=1e-5)
    return build_report(**make_inputs(promise=promise, **changes))
