"""A run's report: its measurements beside what its training promised and what its sampling cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapid_dist.evaluation.measure import Measurements
from rapid_dist.evaluation.report_data import DenoiserEvaluations, Promise, build_report
from rapid_dist.specs import RunSpec


def build_run_report(
    spec: RunSpec,
    measured: Measurements,
    sample_facts: Mapping[str, Any],
    stage_seconds: Mapping[str, float],
    num_images: int,
) -> dict[str, Any]:
    """The dict of report.json. sample_facts: the statement and evaluation counts in the samples' manifest."""
    statement, evaluations = sample_facts["statement"], sample_facts["evaluations"]
    training = _training_mechanism(statement)
    mapped = "by knowledge_base.label_map" if spec.knowledge_base.label_map else "by equal class number, a guess"
    return build_report(
        title=spec.name,
        promise=Promise(
            target_epsilon=statement["target_epsilon"],
            spent_epsilon=statement["epsilon"],
            delta=statement["delta"],
            neighboring_relation=statement["neighboring_relation"],
            unit=statement["unit"],
        ),
        num_images=num_images,
        accuracies=measured.accuracies,
        likeness=measured.likeness,
        copy_check=measured.copy_check,
        denoiser_evaluations=DenoiserEvaluations(per_image=evaluations["per_image"], full_run=evaluations["full_run"]),
        stage_seconds=stage_seconds,
        test_class="private",
        reference_class="private",
        assumptions=[*statement["assumptions"], f"public-only samples stand for private classes {mapped}"],
        reasons=measured.reasons,
        not_private_reasons=statement["not_private_reasons"],
        class_names=spec.data.class_names,
        run_facts={
            "objective": spec.training.objective,
            "split_step": spec.schedule.split_step,
            "query_step": spec.schedule.query_step if spec.schedule.uses_retrieval else "no retrieval",
            "noise multiplier": training["noise_multiplier"],
            "sample rate": training["sample_rate"],
        },
        statement=statement,
    )


def _training_mechanism(statement: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mechanism of training: the last charge, or the last of those that a bound over several runs is made of."""
    last = statement["mechanisms"][-1]
    return last["charges"][-1] if "charges" in last else last
