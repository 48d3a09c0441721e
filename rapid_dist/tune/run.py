"""Ray Tune around the trials of a study: searchers and schedulers by name, resume, and what comes of it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rapid_dist.errors import InputError
from rapid_dist.metrics.ledger_watch import watched_ledger
from rapid_dist.metrics.recorder import stage_shown
from rapid_dist.privacy.statement import build_statement
from rapid_dist.runtime.mailbox import mailbox, run_recorder
from rapid_dist.runtime.session import cpus_for_one_task, cpus_per_worker, placed, ray_session, start_ray
from rapid_dist.runtime.workers import interruptible
from rapid_dist.specs import RuntimeSpec
from rapid_dist.specs.study import PUBLIC_PROXY, SUBSET, StudySpec
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import headed, muted, say
from rapid_dist.tune.costs import final_spec
from rapid_dist.tune.desk import TrialDesk, open_desk
from rapid_dist.tune.outcome import BEST_RUN, publish_winner, study_facts, write_outcome
from rapid_dist.tune.search import candidates, make_scheduler, make_searcher
from rapid_dist.tune.study import Study
from rapid_dist.tune.trial import run_trial
from rapid_dist.tune.trials import TRAIN, TrialGauges, TrialRow, best_row
from rapid_dist.tune.wording import LiveTable, table_lines

_TUNE, _NAME = "tune", "study"
_TRIAL_MEMORY = 1_048_576  # bytes a trial's driver asks for: Ray Tune refuses one that asks for nothing


def run_study(spec: StudySpec, out: Store) -> dict[str, Any]:
    """Runs a study to its end, or goes on with one that was cut off, and returns what it came to as plain values.

    Raises KeyboardInterrupt when it was interrupted; the same call resumes.
    """
    study = Study(spec, out)
    study.save_spec()
    with (
        ray_session(spec.run.runtime),
        run_recorder(spec.run.name) as recorder,
        stage_shown(recorder, _TUNE),
        watched_ledger(study.run.ledger, recorder) if study.mode != PUBLIC_PROXY else contextlib.nullcontext(),
    ):
        start_ray()
        study.prepare()
        study.shared.of(study.first_spec())
        count = study.num_trials()
        live = LiveTable(spec.run.name, num_trials=None if study.is_secret else count, secret=study.is_secret)
        live.goes_on(study.rows())
        trials = TrialDesk(study, live, TrialGauges(None if study.is_secret else recorder, num_trials=count))
        if study.is_secret:
            live.say_at_work()
        with (
            muted() if study.is_secret else contextlib.nullcontext(),
            open_desk(trials.handle) as desk,
            mailbox(say, name="trial-lines") as lines,
        ):
            if count:  # a Poisson draw may be none
                _search(trials, count, desk, None if study.is_secret else lines)
        return _conclude(study)


def _search(trials: TrialDesk, count: int, desk: Any, lines: Any) -> None:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune

    from rapid_dist.tune import search as watch

    # A trial's driver reads the ledger, and its actor stays beside it: where private data may be read.
    claim = {"memory": _TRIAL_MEMORY, **placed(is_private=True).resources}
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, study=trials.study.spec, desk=desk, post=lines), claim
    )
    if trials.study.is_secret:  # it names the trials that did not end
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL + 1)
    # Ray Tune's handler of Ctrl-C lets the study end in order, and would stay behind afterwards.
    with interruptible(), watch.watching(trials):
        results = _tuner(trials.study, trainable, count).fit()
    _mark_ended(trials, results)
    trials.show_all()


def _tuner(study: Study, trainable: Any, count: int) -> Any:
    from ray import tune

    from rapid_dist.tune.search import StudyWatch

    folder = study.work.child(_TUNE)
    place: dict[str, Any] = {"storage_filesystem": _arrow_filesystem(folder)}
    path = folder.path(_NAME)
    if tune.Tuner.can_restore(path, **place):
        say(headed(study.spec.run.name, "goes on with the study in this folder"))
        return tune.Tuner.restore(path, trainable, resume_errored=True, **place)
    spec = study.spec.tune
    searcher = make_searcher(study.spec)
    space = None if searcher is not None else candidates(study.spec, count, study.candidate_seed())
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=count if searcher is not None else 1,
            search_alg=searcher,
            scheduler=make_scheduler(study.spec),
            max_concurrent_trials=spec.max_concurrent or _room(study.spec.run.runtime, spec.cpus_per_trial),
        ),
        run_config=tune.RunConfig(
            name=_NAME,
            storage_path=folder.path(),
            failure_config=tune.FailureConfig(max_failures=spec.max_failures),
            callbacks=[StudyWatch()],
            verbose=0,
            **place,
        ),
    )


def _arrow_filesystem(store: Store) -> Any:
    """What Ray Tune writes its state through; None on a local disk."""
    if store.is_local:
        return None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(store.fs))


def _room(runtime: RuntimeSpec, cpus_per_trial: int | None) -> int:
    """How many trials compute at once: each claims the CPUs of one task, or of one group of workers."""
    nodes = placed(is_private=True).cpus_of_nodes
    workers = runtime.worker_range[1]
    if workers == 1:
        each = cpus_per_trial or cpus_for_one_task(nodes)
        return max(1, sum(node // each for node in nodes))
    return max(1, sum(nodes) // (workers * max(1, cpus_per_worker(nodes, workers))))


def _mark_ended(trials: TrialDesk, results: Any) -> None:
    """Notes trials that Ray Tune gave up. Raises KeyboardInterrupt when others were left as they are."""
    for result in results:
        name = trials.name_of((result.metrics or {}).get("trial_id", ""))
        if result.error is not None and name is not None:
            trials.end(name, status="failed", reason=_last_line(result.error))
    if any(result.error is None and not (result.metrics or {}).get("done") for result in results):
        raise KeyboardInterrupt


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _conclude(study: Study) -> dict[str, Any]:
    """The best of what ended, its spec or run, and the files that say so."""
    spec, rows = study.spec, study.rows()
    best = best_row(rows)
    statement = _statement(study)
    best_spec = None if best is None else _best_spec(study, best, statement)
    reused = [] if study.is_secret else study.shared.summary()
    if not study.is_secret:
        for line in table_lines(rows, spec.tune.score_name, show_epsilon=spec.tune.mode is not None):
            say(line)
    paths = write_outcome(
        study.out, spec, rows, best_spec=best_spec, statement=statement, reused=reused, is_secret=study.is_secret
    )
    if best is None:
        raise InputError(
            f"no trial of {study.out.uri} finished, so there is no best spec: "
            f"{'the secret number of trials may have been 0' if study.is_secret else _reasons(rows)}"
        )
    facts = study_facts(spec, rows, reused)
    answer = {"out": study.out.uri, "study": facts, "statement": statement, "paths": paths}
    if not study.is_secret:
        answer["trials"] = [row.to_dict() for row in rows]
    return answer


def _reasons(rows: list[TrialRow]) -> str:
    found = {row.reason for row in rows if row.reason}
    return "; ".join(sorted(found)[:3]) or "all were stopped or are unfinished"


def _statement(study: Study) -> dict[str, Any] | None:
    """The study's promise; None when no mode is named, since then no epsilon may be said, or nothing was charged."""
    if study.spec.tune.mode is None:
        return None
    if study.mode == PUBLIC_PROXY:
        return dict(PROXY_STATEMENT)
    paid = study.ledger().of_study(study.name)
    return build_statement(study.plan(), paid) if paid.charges else None


def _best_spec(study: Study, best: TrialRow, statement: Mapping[str, Any] | None) -> Any:
    """A spec for `run`: to train with what is left, or of the winner's own run, which is trained and paid for."""
    if study.mode in (PUBLIC_PROXY, SUBSET):
        spec = final_spec(study.spec, best.proposal)
        data = spec.data
        if study.mode == SUBSET:
            # The ledger that the trials were paid in is that of the ingested data set.
            data = replace(data, private=study.run.private.uri)
            spec = replace(spec, privacy=replace(spec.privacy, study=study.name))
        return replace(spec, data=data)
    trial = study.book.get(best.trial)
    artefacts = study.shared.of(trial.spec)
    return publish_winner(
        trial,
        study.book.folder(trial.name).child(TRAIN),
        artefacts.pretrain,
        artefacts.knowledge_base,
        study.out.child(BEST_RUN),
        study=study.name,
        statement=statement,
        private=study.run.private,
        public=study.run.public,
    )


PROXY_STATEMENT = {
    "words": "This study read no private record and costs nothing: epsilon is that of the private run alone.",
    "epsilon": 0.0,
    "delta": 0.0,
    "sentences": [],
    "assumptions": ["the settings searched, and their values, were not chosen by looking at private records"],
}
