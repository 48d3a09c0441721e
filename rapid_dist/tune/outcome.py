"""What a study comes to: rows, the best spec, the winner as a run of its own, pictures, statement, page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rapid_dist import layout
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.ledger import has_ledger, read_ledger
from rapid_dist.specs import RunSpec
from rapid_dist.specs.study import PUBLIC_PROXY, StudySpec
from rapid_dist.storage.manifest import copy_file, read_manifest, write_manifest
from rapid_dist.storage.store import Store
from rapid_dist.tune import wording as modes_text
from rapid_dist.tune.costs import base_proposal
from rapid_dist.tune.page import study_page
from rapid_dist.tune.plots import noise_over_steps, parallel_coordinates, score_over
from rapid_dist.tune.trials import Trial, TrialBook, TrialRow, best_row, trials_table, without_times

BEST, TRIALS, STATEMENT, PAGE, BEST_RUN = "best.yaml", "trials.parquet", "statement.json", "study.html", "best"
_FACTS_OF_THE_MODEL = ("steps", "completed", "noise_multiplier")
_REMEDY = "run the study again in another folder"


def trial_row(book: TrialBook, trial: Trial, *, ledger: Store | None) -> TrialRow:
    """A trial as a row. ledger: where its charges are; None where nothing private was read, and no epsilon is said."""
    spec, rungs, ending = trial.spec, book.rungs(trial.name), book.ending(trial.name) or {}
    privacy, is_planned = spec.privacy, not trial.reason
    epsilon, attempts = None, 0
    if ledger is not None and has_ledger(ledger):
        paid = read_ledger(ledger)
        epsilon = epsilon_pld(paid.charges_of(trial.job), privacy.target_delta)
        attempts = len(paid.attempts_of(trial.job))
    status = ending.get("status", "running")
    return TrialRow(
        trial=trial.name,
        status=status,
        proposal=dict(trial.proposal),
        score=rungs[-1][1] if rungs else None,
        rungs=rungs,
        step=rungs[-1][0] if rungs else 0,
        steps=spec.training.steps,
        noise_multiplier=privacy.noise_multiplier if is_planned else None,
        sample_rate=privacy.sample_rate if is_planned else None,
        expected_batch_size=privacy.expected_batch_size if is_planned else None,
        max_grad_norm=privacy.max_grad_norm,
        epsilon=epsilon,
        attempts=attempts,
        seconds=ending.get("seconds"),
        reason=trial.reason or ending.get("reason", ""),
    )


def publish_winner(
    trial: Trial,
    trained: Store,
    pretrain: Store,
    knowledge_base: Store | None,
    out: Store,
    *,
    study: str,
    statement: Mapping[str, Any],
    private: Store,
    public: Store,
) -> RunSpec:
    """Makes the winning trial a run of its own in `out`, trained already, and returns its spec.

    The run's `sample` and `evaluate` cost nothing more.

    Args:
        study: The study's name in the ledger of `private`; the spec names it, so that a new training of it on that
            dataset is counted with the study.
        statement: The study's, which takes the place of the trial's own: what the trial cost alone is not what it
            cost to find it.

    Guarantee: what it writes does not tell the trial's name, place among the trials or ledger.
    """
    data = replace(trial.spec.data, private=private.uri, public=public.uri)
    spec = replace(trial.spec, data=data, privacy=replace(trial.spec.privacy, study=study))
    out.write_bytes(layout.SPEC, spec.to_yaml().encode())
    copy_artefact(pretrain, out.child(layout.PRETRAIN))
    if knowledge_base is not None:
        copy_artefact(knowledge_base, out.child(layout.KNOWLEDGE_BASE), beside=("versions",))
    train = out.child(layout.TRAIN)
    manifest = read_manifest(trained)
    for entry in manifest.files:
        copy_file(trained, entry, train, remedy=_REMEDY)
    facts = {name: manifest.facts[name] for name in _FACTS_OF_THE_MODEL if name in manifest.facts}
    write_manifest(
        train,
        replace(
            manifest,
            spec={**manifest.spec, "privacy": {**manifest.spec["privacy"], "study": study}},
            facts={**facts, "statement": dict(statement)},
            not_private_reasons=tuple(statement["not_private_reasons"]),
        ),
    )
    return spec


def copy_artefact(source: Store, target: Store, *, beside: Sequence[str] = ()) -> None:
    """Copies what a manifest names, then the manifest. beside: folders of small files that go with it."""
    manifest, kept = read_manifest(source), read_manifest(target)
    if kept is None or kept.digest != manifest.digest:
        for entry in manifest.files:
            copy_file(source, entry, target, remedy=_REMEDY)
    for folder in beside:
        for name in source.list_files(folder):
            target.write_bytes(f"{folder}/{name}", source.read_bytes(f"{folder}/{name}"))
    write_manifest(target, manifest)


def study_facts(study: StudySpec, rows: Sequence[TrialRow], reused: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page and the JSON say of a study."""
    tune, best = study.tune, best_row(rows)
    return {
        "name": study.run.name,
        "mode": tune.mode,
        "objective": tune.score_name,
        "searcher": tune.searcher,
        "scheduler": tune.scheduler,
        "num_trials": tune.num_trials,
        "space": {name: axis.to_plain() for name, axis in tune.space.items()},
        "base": base_proposal(tune.space, study.run),
        "reused": list(reused),
        "best": None if best is None else dict(best.proposal),
        "transfer": TRANSFER if tune.cost_mode == PUBLIC_PROXY else "",
    }


TRANSFER = (
    "Scores are of public images that pretend to be private. How well they carry over shows in the private runs alone: "
    "run best.yaml, and the base spec if its budget allows, and compare their reports."
)


def write_outcome(
    out: Store,
    study: StudySpec,
    rows: Sequence[TrialRow],
    *,
    best_spec: RunSpec | None,
    statement: Mapping[str, Any] | None,
    reused: Sequence[Mapping[str, Any]],
    is_secret: bool,
) -> dict[str, str]:
    """Writes best.yaml, statement, trials, pictures and page; returns where they are. Of a secret study, only the best.

    Guarantee: under repeat_select nothing is written here but the winner's settings and the statement. In modes that
    read private images nothing written here tells how long a trial took.
    """
    paths = {}
    rows = rows if study.tune.cost_mode == PUBLIC_PROXY else without_times(rows)

    def write(name: str, data: bytes) -> None:
        out.write_bytes(name, data)
        paths[name] = out.uri_of(name)

    if best_spec is not None:
        write(BEST, best_spec.to_yaml().encode())
    if statement is not None:
        write(STATEMENT, json.dumps(statement, indent=1).encode())
    pictures = {} if is_secret else draw_pictures(study, rows)
    for name, png in pictures.items():
        write(f"plots/{name}.png", png)
    if not is_secret:
        write(TRIALS, trials_table(rows))
    facts = study_facts(study, rows, reused)
    write(PAGE, study_page(facts, rows, statement, pictures).encode())
    return paths


def draw_pictures(study: StudySpec, rows: Sequence[TrialRow]) -> dict[str, bytes]:
    """Score over each setting, noise against steps, parallel coordinates."""
    tune, base = study.tune, base_proposal(study.tune.space, study.run)
    target = study.run.privacy.target_epsilon if tune.mode is not None else None
    logs = modes_text.log_keys({name: axis.to_plain() for name, axis in tune.space.items()})
    found = {
        f"score_over_{key.partition('.')[2]}": score_over(
            rows, key, tune.score_name, default=base[key], is_log=key in logs
        )
        for key in tune.space
    }
    found["noise_over_steps"] = noise_over_steps(rows, target)
    found["parallel_coordinates"] = parallel_coordinates(rows, tune.score_name, log_keys=logs)
    return found
