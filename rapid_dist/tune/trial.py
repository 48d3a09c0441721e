"""One trial under Ray Tune: ask the driver what to run, train and score it as any run, report at every rung.

The function that Tune runs claims no CPU. What computes (a group of workers, or one task) claims all it needs at once
and holds it only while it works, so trials that wait for each other's artefacts never hold what these need.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from rapid_dist import errors
from rapid_dist.knowledge_base.files import BUILD
from rapid_dist.privacy.plan import OneWorker
from rapid_dist.runtime.mailbox import Post
from rapid_dist.runtime.session import cpus_for_one_task, placed
from rapid_dist.runtime.workers import run_workers
from rapid_dist.specs import RuntimeSpec, parse_spec
from rapid_dist.specs.study import StudySpec
from rapid_dist.stages.train import TrainOptions, run_train
from rapid_dist.storage.manifest import open_artifact
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import headed
from rapid_dist.training.collective import Collective
from rapid_dist.tune.desk import DeskClient, Gate
from rapid_dist.tune.scorer import TrialScorer, read_rungs, rung_number

FAILED_SCORE = -1e9  # what a searcher is told of a trial that makes no sense; no score is as low


def run_trial(config: dict[str, Any], *, study: StudySpec, desk: DeskClient, post: Post | None) -> None:
    """The function that Tune runs. config: what the searcher proposes, and the candidate's number if it has one."""
    from ray import tune

    context = tune.get_context()
    # A searcher proposes settings; candidates that were drawn beforehand have a number besides.
    point = config.get("point") or {"candidate": None, "proposal": config}
    try:
        terms = desk.ask(
            "begin", tune_id=context.get_trial_id(), candidate=point["candidate"], proposal=point["proposal"]
        )
        for step, score, again in _rungs(terms, study, desk, post):
            _report(terms, study, step, score)
            again()
        # Said first: a scheduler may end a trial at its last report.
        desk.ask("ended", trial=terms["trial"], status="finished", reason="")
        _report(terms, study, *read_rungs(Store(terms["folder"]))[-1])
    except (errors.SpecError, errors.InputError, errors.PrivacyError) as error:
        _give_up(desk, context.get_trial_id(), error)


def _give_up(desk: DeskClient, tune_id: str, error: Exception) -> None:
    """What would fail in the same way again is told once and not retried."""
    from ray import tune

    desk.ask("failed", tune_id=tune_id, reason=str(error))
    tune.report({"score": FAILED_SCORE, "step": 0, "rung": 1})


def _report(terms: dict[str, Any], study: StudySpec, step: int, score: float) -> None:
    """Tells Ray Tune a score and its rung.

    Ray Tune keeps no checkpoint of a trial: a restarted one asks the desk again and resumes from its own folder.
    """
    from ray import tune

    training = parse_spec(terms["spec"]).training
    tune.report({"score": score, "step": step, "rung": rung_number(training, study.tune.num_rungs, step)})


def _rungs(terms: dict[str, Any], study: StudySpec, desk: DeskClient, post: Post | None):
    """Trains the trial; yields (step, score, go_on) at every rung but the last."""
    gate = Gate.open() if study.tune.num_rungs > 1 else None
    failure: list[BaseException] = []

    def work() -> None:
        try:
            _train(terms, study, gate, desk, post)
        except BaseException as error:
            failure.append(error)
        finally:
            if gate is not None:
                gate.close()

    thread = threading.Thread(target=work, name="trial", daemon=True)
    thread.start()
    while gate is not None and (arrived := gate.next()) is not None:
        yield (*arrived, gate.go_on)
    thread.join()
    if failure:
        raise failure[0]


def _train(terms: dict[str, Any], study: StudySpec, gate: Gate | None, desk: DeskClient, post: Post | None) -> None:
    spec = parse_spec(terms["spec"])
    knowledge_base = None if terms["knowledge_base"] is None else Store(terms["knowledge_base"])
    base = None if knowledge_base is None else open_artifact(knowledge_base, stage=BUILD)
    scorer = TrialScorer(
        spec=spec,
        tune=study.tune,
        folder=Store(terms["folder"]),
        reference=Store(terms["reference"]),
        knowledge_base=knowledge_base,
        base=base,
        go_on=gate,
    )
    run_train(
        spec,
        Store(terms["images"]),
        Store(terms["pretrain"]),
        knowledge_base,
        Store(terms["ledger"]),
        Store(terms["train"]),
        options=TrainOptions(
            job=terms["job"],
            terms=terms["attempt_terms"],
            scorer=scorer,
            run_fn=_runner(terms["trial"], desk, post, study.tune.cpus_per_trial),
        ),
    )


def _runner(trial: str, desk: DeskClient, post: Post | None, cpus: int | None) -> Callable[..., dict[str, Any]]:
    """How a trial's workers run: as one task that claims its CPUs, or as a group of Ray Train."""

    def run(
        fn: Callable, arguments: dict[str, Any], *, runtime: RuntimeSpec, name: str, is_private: bool
    ) -> dict[str, Any]:
        if runtime.worker_range != (1, 1):
            fn = functools.partial(_announced, fn, trial, desk)
            return run_workers(fn, arguments, runtime=runtime, name=name, is_private=is_private)
        told = {**arguments, "say": functools.partial(_say, post, trial)}
        return _run_alone(fn, told, runtime=runtime, is_private=is_private, cpus=cpus)

    return run


def _announced(
    fn: Callable, trial: str, desk: DeskClient, collective: Collective, arguments: dict[str, Any]
) -> dict[str, Any]:
    """A worker's part, after the driver of the study has been told which claim on the cluster the group holds."""
    import ray

    if collective.rank == 0:
        desk.ask("group", trial=trial, group=ray.util.get_current_placement_group())
    return fn(collective, arguments)


def _say(post: Post | None, trial: str, line: str) -> None:
    if post is not None:
        _, _, text = line.partition(" ")
        post(headed(trial, text.strip()))


def _run_alone(
    fn: Callable, arguments: dict[str, Any], *, runtime: RuntimeSpec, is_private: bool, cpus: int | None
) -> dict[str, Any]:
    import ray

    gpus = 1 if runtime.device.startswith("cuda") else 0
    place = placed(is_private=is_private)
    cpus = cpus or cpus_for_one_task(place.cpus_of_nodes)
    # SPREAD: anywhere, not in the placement group of the trial, which has no CPU.
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": runtime.max_failures, "scheduling_strategy": "SPREAD"}
    task = ray.remote(**options, **place.options)(_alone)
    try:
        answer = ray.get(task.remote(fn, {**arguments, "device": runtime.device}, cpus))
    except ray.exceptions.RayError as error:
        raise errors.RapidDistError(f"a trial's process was lost: {type(error).__name__}") from error
    if "error" in answer:
        raise errors.error_named(answer["error"], answer["message"])
    return answer


def _alone(fn: Callable, arguments: dict[str, Any], threads: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    collective = OneWorker()
    collective.device = arguments["device"]
    try:
        return fn(collective, arguments)
    except errors.RapidDistError as error:
        return {"error": type(error).__name__, "message": str(error)}
