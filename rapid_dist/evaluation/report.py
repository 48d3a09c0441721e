"""A run's report: its measurements beside what its training promised and what its sampling cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rapid_dist.errors import SpecError
from rapid_dist.evaluation.classifier import AccuracyResult
from rapid_dist.evaluation.copies import CopyCheckResult
from rapid_dist.evaluation.likeness import LikenessResult
from rapid_dist.evaluation.measure import Measurements
from rapid_dist.specs import RunSpec

FALSE_ALARM_RATES = {"tpr_at_fpr_1_percent": 0.01, "tpr_at_fpr_0_1_percent": 0.001}


def odds_table(epsilon: float, delta: float) -> dict[str, float | None]:
    """Returns the best any membership guess can do against an (epsilon, delta) private output.

    best_guess_accuracy = (e^eps + delta) / (1 + e^eps) at even odds (Kairouz et al. 2015);
    true positive rate at a false positive rate f <= min(e^eps f + delta, 1 - e^-eps (1 - delta - f)).
    odds_factor = e^eps, None where it overflows. All bounds are worst case over data and attackers.
    Raises SpecError for epsilon < 0 or delta outside [0, 1].
    """
    if not epsilon >= 0 or not 0 <= delta <= 1:
        raise SpecError(f"got epsilon={epsilon}, delta={delta}; expected epsilon >= 0 and delta in [0, 1]")
    shrink = math.exp(-epsilon)
    growth = math.exp(epsilon) if epsilon < 700 else math.inf
    table: dict[str, float | None] = {
        "odds_factor": growth if math.isfinite(growth) else None,
        "best_guess_accuracy": min(1.0, (1 + delta * shrink) / (1 + shrink)),
    }
    for name, rate in FALSE_ALARM_RATES.items():
        table[name] = min(1.0, growth * rate + delta, 1 - shrink * (1 - delta - rate))
    return table


REPORT_VERSION = 1
ACCURACY_NAMES = ("synthetic", "public_only", "real")
TRAINED_ON_PRIVATE = frozenset({"real"})
LIKENESS_NAMES = ("fid", "precision", "recall", "density", "coverage")
WALL_TIMES = "stage_seconds"
REASON_NOT_ASKED = "not asked for in this run"
REASON_WITHHELD = "kept inside, since private images went into it without protection"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Promise:
    """The privacy statement: what was aimed at, what the ledger says was spent, and about whom.

    unit is what one record is, in words: "one image", "one patient". spent_epsilon is at `delta`.
    """

    target_epsilon: float
    spent_epsilon: float
    delta: float
    neighboring_relation: str = "add_or_remove_one"
    unit: str = "one image"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserEvaluations:
    """Denoiser calls for one image as sampled, and what a run over all timesteps would have cost."""

    per_image: float
    full_run: float


def build_report(
    *,
    title: str,
    promise: Promise,
    num_images: int | None,
    accuracies: Mapping[str, AccuracyResult | None],
    likeness: LikenessResult | None,
    copy_check: CopyCheckResult | None,
    denoiser_evaluations: DenoiserEvaluations | None,
    stage_seconds: Mapping[str, float] | None,
    test_class: str,
    reference_class: str,
    assumptions: Sequence[str],
    reasons: Mapping[str, str] | None = None,
    not_private_reasons: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
    run_facts: Mapping[str, Any] | None = None,
    statement: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the content of report.json: plain JSON types, every key present, null where not measured.

    test_class is the privacy class ("public" or "private") of the labelled test images, reference_class that of
    the images likeness is measured against. A number computed from private images is listed in outside_guarantee
    and makes the report private; so does any not_private_reasons, since then the images themselves are not covered.
    reasons maps a dotted key ("fid", "accuracy.real") to why it is missing. stage_seconds keeps its order; stages read
    private images, so it is outside the guarantee too.
    run_facts are strings or numbers shown as they are (run id, date, version). statement is the training's privacy
    statement (privacy.statement), carried whole and shown in words.
    Raises SpecError for an unknown class or accuracy name.
    """
    _check_names(accuracies, test_class, reference_class)
    stamps = list(not_private_reasons)
    if not math.isfinite(promise.spent_epsilon):
        stamps.append("epsilon is infinite: the run gives no bound")
    report: dict[str, Any] = {
        "report_version": REPORT_VERSION,
        "title": title,
        **dataclasses.asdict(promise),
        "statement": None if statement is None else dict(statement),
        "odds": odds_table(promise.spent_epsilon, promise.delta),
        "num_images": num_images,
        "class_names": list(class_names or ()),
        **_accuracy_part(accuracies),
        **_likeness_part(likeness),
        "copy_check": None if copy_check is None else dataclasses.asdict(copy_check),
        "denoiser_evaluations_per_image": _optional_dict(denoiser_evaluations),
        WALL_TIMES: dict(stage_seconds) if stage_seconds else None,
        "test_class": test_class,
        "reference_class": reference_class,
        "assumptions": list(assumptions),
        "not_private_reasons": stamps,
        "run_facts": dict(run_facts or {}),
    }
    measured, report = report, _to_json_types(report)
    report["outside_guarantee"] = _outside_guarantee(report, test_class, reference_class)
    report["privacy_class"] = "private" if report["outside_guarantee"] or stamps else "dp"
    report["not_measured"] = _explain_missing(report, measured, reasons or {})
    return report


def without_private_values(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy to share: every value outside the guarantee is null, with the reason in not_measured.

    Its class is "dp", unless not_private_reasons say that the images themselves are not covered.

    Guarantee: it has no stage_seconds at all, neither value nor reason: how long stages took depends on the private
    images they read.
    """
    shared = {key: dict(value) if isinstance(value, Mapping) else value for key, value in report.items()}
    for part in (shared, shared["not_measured"]):
        part.pop(WALL_TIMES, None)
    for key in report["outside_guarantee"]:
        if key == WALL_TIMES:
            continue
        group, _, name = key.partition(".")
        if name:
            shared[group][name] = None
            shared[f"{group}_detail"][name] = None
        else:
            shared[key] = None
        shared["not_measured"][key] = REASON_WITHHELD
    shared["outside_guarantee"] = []
    shared["privacy_class"] = "private" if report["not_private_reasons"] else "dp"
    return shared


def _check_names(accuracies: Mapping[str, Any], test_class: str, reference_class: str) -> None:
    for name, value in (("test_class", test_class), ("reference_class", reference_class)):
        if value not in ("public", "private"):
            raise SpecError(f"{name} is {value!r}; expected 'public' or 'private'")
    unknown = sorted(set(accuracies) - set(ACCURACY_NAMES))
    if unknown:
        raise SpecError(f"unknown accuracies {unknown}; expected a subset of {list(ACCURACY_NAMES)}")


def _accuracy_part(accuracies: Mapping[str, AccuracyResult | None]) -> dict[str, Any]:
    results = {name: accuracies.get(name) for name in ACCURACY_NAMES}
    return {
        "accuracy": {name: None if r is None else r.accuracy for name, r in results.items()},
        "accuracy_detail": {name: _optional_dict(r) for name, r in results.items()},
    }


def _likeness_part(likeness: LikenessResult | None) -> dict[str, Any]:
    values = {name: getattr(likeness, name, None) for name in LIKENESS_NAMES}
    features = None
    if likeness is not None:
        features = {
            "name": likeness.feature_name,
            "digest": likeness.feature_digest,
            "num_real": likeness.num_real,
            "num_synthetic": likeness.num_synthetic,
        }
    return {**values, "fid_features": features}


def _outside_guarantee(report: Mapping[str, Any], test_class: str, reference_class: str) -> list[str]:
    """The keys with a value that private images went into, other than through the private model."""
    keys = [
        f"accuracy.{name}"
        for name in ACCURACY_NAMES
        if report["accuracy"][name] is not None and (test_class == "private" or name in TRAINED_ON_PRIVATE)
    ]
    if reference_class == "private":
        # fid_features goes too: it tells how many private images there are.
        keys += [name for name in (*LIKENESS_NAMES, "fid_features") if report[name] is not None]
    if report["copy_check"] is not None:
        keys.append("copy_check")
    if report[WALL_TIMES] is not None:
        keys.append(WALL_TIMES)
    return keys


def _explain_missing(
    report: Mapping[str, Any], measured: Mapping[str, Any], reasons: Mapping[str, str]
) -> dict[str, str]:
    """A reason for each null; `measured` still holds the NaN or infinity that JSON cannot."""
    if "fid" in reasons:
        reasons = {"fid_features": reasons["fid"], **reasons}
    explained = {
        key: reasons.get(key, REASON_NOT_ASKED if measured[key] is None else f"came out as {measured[key]}")
        for key in report
        if report[key] is None
    }
    for name in ACCURACY_NAMES:
        if report["accuracy"][name] is None:
            explained[f"accuracy.{name}"] = reasons.get(f"accuracy.{name}", REASON_NOT_ASKED)
    return explained


def _optional_dict(result: Any) -> dict[str, Any] | None:
    return None if result is None else dataclasses.asdict(result)


def _to_json_types(value: Any) -> Any:
    """Tuples become lists, numpy numbers plain ones, and NaN or infinity null: JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {str(key): _to_json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_types(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
            "query_step": spec.schedule.query_step if spec.uses_retrieval else "no retrieval",
            "noise multiplier": training["noise_multiplier"],
            "sample rate": training["sample_rate"],
        },
        statement=statement,
    )


def _training_mechanism(statement: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mechanism of training: the last charge, or the last of those that a bound over several runs is made of."""
    last = statement["mechanisms"][-1]
    return last["charges"][-1] if "charges" in last else last
