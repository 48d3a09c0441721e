"""The gate before a release: a run's own numbers, read from files that match their digests, against bounds.

>>> verdict = Verdict(name="epsilon", value=2.5, bound="at most 3", passed=True)
>>> str(verdict)
'PASS epsilon 2.5 (at most 3)'
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rapid_dist import layout
from rapid_dist.errors import ArtifactError, InputError
from rapid_dist.storage.manifest import Manifest, open_artifact, read_file
from rapid_dist.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One number against its bound.

    Attributes:
        name: What was measured.
        value: What it is; None where the run has no such number, which does not pass.
        bound: The bound in words.
        passed: Whether the number keeps it.
        reason: Why there is no number, or why it does not count.
    """

    name: str
    value: float | None
    bound: str
    passed: bool
    reason: str = ""

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.6g}"
        reason = f": {self.reason}" if self.reason else ""
        return f"{'PASS' if self.passed else 'FAIL'} {self.name} {value} ({self.bound}){reason}"


def judge(statement: Mapping[str, Any], report: Mapping[str, Any] | None, bounds: Mapping[str, float]) -> list[Verdict]:
    """Returns a verdict for each bound.

    Args:
        statement: The privacy statement of the samples.
        report: The report of the evaluation, needed for accuracy and fid.
        bounds: Some of max_epsilon, max_delta, min_accuracy, max_fid.

    Returns:
        Verdicts in that order. An epsilon of what is not private never passes.
    """
    accuracy = None if report is None else report["accuracy"]["synthetic"]
    fid = None if report is None else report["fid"]
    missing = {} if report is None else report["not_measured"]
    unsound = "NOT PRIVATE: " + "; ".join(statement["not_private_reasons"]) if statement["not_private_reasons"] else ""
    epsilon_name = f"epsilon of this run at delta {statement['delta']:g}"
    rows = {
        "max_epsilon": (epsilon_name, statement["epsilon"], unsound),
        "max_delta": ("delta", statement["delta"], unsound),
        "min_accuracy": ("accuracy", accuracy, missing.get("accuracy.synthetic", "")),
        "max_fid": ("fid", fid, missing.get("fid", "")),
    }
    verdicts = []
    for key, (name, value, reason) in rows.items():
        if key not in bounds:
            continue
        bound, is_most = bounds[key], key.startswith("max")
        counts = value is not None and math.isfinite(value) and not (unsound and key in ("max_epsilon", "max_delta"))
        passed = bool(counts and (value <= bound if is_most else value >= bound))
        words = f"at {'most' if is_most else 'least'} {bound:g}"
        verdicts.append(Verdict(name=name, value=value, bound=words, passed=passed, reason="" if passed else reason))
    return verdicts


def check_release(run: Store, bounds: Mapping[str, float | None]) -> list[Verdict]:
    """Judges a finished run by its own files.

    Args:
        run: The folder of the run.
        bounds: As for judge; None for those that are not asked.

    Returns:
        A verdict for each bound asked.

    Raises:
        InputError: No bound is given, or one is no number that can be kept.
        ArtifactError: A file is missing, altered, or made from other files than those that are there.
    """
    asked = {name: bound for name, bound in bounds.items() if bound is not None}
    if not asked:
        raise InputError("no bound is given; give one, such as --max-epsilon 3")
    for name, bound in asked.items():
        if not math.isfinite(bound) or bound < 0:
            raise InputError(f"--{name.replace('_', '-')} is {bound:g}; expected a number, not negative")
    if asked.get("min_accuracy", 0) > 1:
        raise InputError(f"--min-accuracy is {asked['min_accuracy']:g}; expected a share from 0 to 1")
    if not run.exists(layout.SPEC):
        raise ArtifactError(f"{run.uri} has no {layout.SPEC}; give the folder of a run")
    trained = open_artifact(run.child(layout.TRAIN), stage="train", privacy_classes=("dp",))
    samples = _verified(run.child(layout.SAMPLES), "sample", inputs={"train": trained.digest})
    report = None
    if "min_accuracy" in asked or "max_fid" in asked:
        folder = run.child(layout.EVALUATION)
        evaluated = _verified(folder, "evaluate", inputs={"samples": samples.digest})
        report = json.loads(folder.read_bytes("report.json"))
        if report != evaluated.facts["report"]:
            raise ArtifactError(f"{folder.uri}/report.json is not the report of its manifest; evaluate again")
    statement = dict(samples.facts["statement"])
    statement["not_private_reasons"] = [*statement["not_private_reasons"], *samples.not_private_reasons]
    if statement["epsilon"] != trained.facts["statement"]["epsilon"]:
        raise ArtifactError(f"{run.uri}: samples and training state another epsilon; sample again")
    return judge(statement, report, asked)


def _verified(store: Store, stage: str, *, inputs: Mapping[str, str]) -> Manifest:
    """The manifest of a stage, after every file of it was checked, and that it was made from these inputs."""
    manifest = open_artifact(store, stage=stage)
    for name, digest in inputs.items():
        if manifest.inputs.get(name) != digest:
            raise ArtifactError(f"{store.uri} was made from another {name}; run the stage {stage!r} again")
    for entry in manifest.files:
        read_file(store, entry)
    return manifest
