"""The train stage: DP-SGD on the late timesteps over a Ray Train worker group, paid for in the ledger first."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from rapid_dist.errors import BudgetExceededError, PrivacyError
from rapid_dist.knowledge_base.files import BUILD
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.metrics.steps import PrivateStepMeter, group_started
from rapid_dist.models.public import PRETRAIN, save_weights
from rapid_dist.privacy.ledger import Ledger, has_ledger, join_ledger, read_ledger
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.privacy.statement import build_statement
from rapid_dist.runtime.ledger_actor import ledger_actor
from rapid_dist.runtime.mailbox import relayed_recorder
from rapid_dist.runtime.query_service import routing_section, served_search
from rapid_dist.runtime.session import start_ray
from rapid_dist.runtime.workers import run_workers
from rapid_dist.specs import RunSpec
from rapid_dist.storage.manifest import FileEntry, Manifest, file_entry, open_artifact
from rapid_dist.storage.stage import StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST
from rapid_dist.telemetry import Progress, headed, say
from rapid_dist.training.collective import Collective, agree
from rapid_dist.training.plan import build_plan, private_run
from rapid_dist.training.private import (
    STATISTICS,
    VOTES,
    BlockEnd,
    open_attempt,
    release_statistics,
    release_votes,
    train_attempt,
)
from rapid_dist.training.private_data import load_private_inputs, start_model
from rapid_dist.training.state import CheckpointFolder, TrainState, release_stamp
from rapid_dist.training.warm_up import warm_up

TRAIN = "train"
WEIGHTS = "denoiser.safetensors"
JOB = "job.json"


class Scorer(Protocol):
    """What looks at a model in training at the ends of paid blocks; it pickles. See tuning.scorer."""

    def at_block_end(self, end: BlockEnd) -> None: ...

    def at_end(self, end: BlockEnd) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a trial's training differs from a run's.

    job: its name in the ledger; None makes one. terms: what its attempts say besides the plan. scorer: sees the model
    between blocks. run_fn: as run_workers.
    """

    job: str | None = None
    terms: Mapping[str, Any] = field(default_factory=dict)
    scorer: Scorer | None = None
    run_fn: Callable[..., dict[str, Any]] = run_workers


def run_train(
    spec: RunSpec,
    images: Store,
    pretrain: Store,
    knowledge_base: Store | None,
    ledger: Store,
    out: Store,
    *,
    options: TrainOptions | None = None,
) -> Manifest:
    """Trains the private denoiser and writes its averaged weights; the ledger lies outside this folder.

    A second call with the same arguments resumes from the newest checkpoint as a new attempt, which the ledger
    counts. Training that the budget stops early says so and still finishes.
    """
    inputs = {
        "private": open_artifact(images, stage=INGEST, privacy_classes=("private",)).digest,
        "pretrain": open_artifact(pretrain, stage=PRETRAIN, privacy_classes=("public",)).digest,
    }
    base = None
    if spec.uses_retrieval:
        base = open_artifact(knowledge_base, stage=BUILD, privacy_classes=("public",))
        inputs["knowledge_base"] = base.digest
    folder = StageFolder(out, stage=TRAIN, spec=train_sections(spec), inputs=inputs)
    if folder.finished is not None:
        return folder.finished
    options = options or TrainOptions()
    if spec.privacy.study is not None:
        options = replace(options, terms={**options.terms, **_study_terms(ledger, spec.privacy.study)})
    plan = build_plan(spec)
    plan.planned_epsilon()
    job = options.job or _job_of(out)
    terms = plan.ledger_terms()
    written = {**plan.to_plain(), **options.terms}
    _require_room(spec, join_ledger(ledger, **terms), plan, job, written)
    start_ray()
    with (
        ledger_actor(ledger, **terms) as client,
        relayed_recorder() as recorder,
        served_search(spec.knowledge_base, knowledge_base, base, is_private=True) as search,
    ):
        answer = options.run_fn(
            train_worker,
            {
                "spec": spec,
                "plan": plan,
                "job": job,
                "images": images,
                "pretrain": pretrain,
                "knowledge_base": knowledge_base,
                "base": base,
                "search": search,
                "ledger": client,
                "out": out,
                "recorder": recorder,
                "terms": dict(options.terms),
                "scorer": options.scorer,
            },
            runtime=spec.runtime,
            name=TRAIN,
            is_private=True,
        )
    paid = read_ledger(ledger)
    if not answer["completed"]:
        say(
            headed(
                TRAIN,
                f"stopped at step {answer['step']} of {spec.training.steps}: the next step would exceed epsilon "
                f"{plan.target_epsilon:g} (restarts used up the spare steps)",
            )
        )
    statement = build_statement(plan, paid.scope_of(job))
    return folder.finish(
        privacy_class="dp",
        files=[FileEntry(**f) for f in answer["files"]],
        facts={
            "steps": answer["step"],
            "completed": answer["completed"],
            "job": job,
            "statistics_noise_multiplier": plan.statistics_noise_multiplier,
            "attempts": len(paid.attempts_of(job)),
            "dataset": {**paid.target, "spent_epsilon": paid.spent_epsilon()},
            "noise_multiplier": plan.noise_multiplier,
            "statement": statement,
        },
        not_private_reasons=statement["not_private_reasons"],
    )


def train_sections(spec: RunSpec) -> dict[str, Any]:
    """Returns what a private model depends on besides its inputs; privacy.study is among it."""
    return {
        **spec.sections("denoiser", "schedule", "privacy", "statistics", "training"),
        "releases_statistics": spec.releases_statistics,
        "num_classes": spec.data.num_classes,
        "label_map": {str(k): v for k, v in spec.knowledge_base.label_map.items()},
        **routing_section(spec),
    }


def _study_terms(ledger: Store, study: str) -> dict[str, Any]:
    known = read_ledger(ledger).studies if has_ledger(ledger) else {}
    if study not in known:
        raise PrivacyError(
            f"privacy.study is {study!r}, which the dataset's ledger does not know; run best.yaml on the dataset that "
            "the study ingested, or, on records that the study never saw, leave it out"
        )
    return known[study]


def _require_room(spec: RunSpec, ledger: Ledger, plan: PrivacyPlan, job: str, written: Mapping[str, Any]) -> None:
    """Raises BudgetExceededError when the plan of a job that begins does not fit, and says what is free instead."""
    try:
        ledger.require_room(plan.planned_charges(), job=job, plan=written)
    except BudgetExceededError as error:
        if spec.privacy.study is None:
            raise
        raise BudgetExceededError(
            f"{error}; the winner of a study in mode compose or repeat_select is trained already: give best.yaml the "
            "folder best/ beside it as --out, and its images cost nothing more"
        ) from None


def require_room(spec: RunSpec, ledger: Ledger, plan: PrivacyPlan, out: Store) -> None:
    """Raises BudgetExceededError when a training that has not begun does not fit into what is left of a dataset.

    Args:
        ledger: Of the dataset; it is only read.
        out: The folder of the train stage; a job that began there may resume with what is left.
    """
    job = json.loads(out.read_bytes(JOB))["job"] if out.exists(JOB) else ""
    _require_room(spec, ledger, plan, job, plan.to_plain())


def _job_of(out: Store) -> str:
    """The name under which the dataset's ledger keeps this folder's attempts; made once, kept beside the weights."""
    out.create_exclusive(JOB, json.dumps({"job": secrets.token_hex(8)}).encode())
    return json.loads(out.read_bytes(JOB))["job"]


def train_worker(collective: Collective, arguments: dict[str, Any]) -> dict[str, Any]:
    """What every worker of private training does; arguments as run_train makes them."""
    spec, plan, out, device = (arguments[k] for k in ("spec", "plan", "out", "device"))
    client, job = arguments["ledger"], arguments["job"]
    recorder = arguments.get("recorder", Recorder()) if collective.rank == 0 else Recorder()
    group_started(recorder, TRAIN)
    attempt = open_attempt(
        plan,
        ledger=client,
        job=job,
        debug_fixed_key=spec.privacy.debug_fixed_key,
        attempt_terms=arguments.get("terms", {}),
        statement_fn=lambda: client.statement_line(plan, job=job),
        collective=collective,
    )
    inputs = agree(
        collective,
        lambda: load_private_inputs(
            spec,
            images=arguments["images"],
            pretrain=arguments["pretrain"],
            knowledge_base=arguments["knowledge_base"],
            collective=collective,
            device=device,
            base=arguments["base"],
            search=arguments["search"],
        ),
    )
    votes = release_votes(inputs, spec, plan, attempt, collective, out)
    statistics = release_statistics(inputs, spec, plan, attempt, collective, out)
    model = start_model(spec, inputs, votes).to(device)
    run = private_run(spec, plan, inputs.models.alphas_cumprod, device=device)
    checkpoints = out.child("checkpoints")
    warming = Progress("warm-up", spec.training.warm_up_steps, first=0, say_fn=arguments["say"])
    warm_up(
        model,
        statistics,
        spec,
        run,
        inputs.models.latent_shape,
        collective=collective,
        out=checkpoints,
        notes_fn=lambda: release_stamp(plan, job, attempt.statement_fn()),
        on_step=warming.update if collective.rank == 0 else lambda step: None,
        recorder=recorder,
    )

    def watch(state: TrainState) -> Callable[[int], None]:
        progress = Progress(TRAIN, spec.training.steps, first=state.step, say_fn=arguments["say"])
        return progress.update if collective.rank == 0 else lambda step: None

    scorer: Scorer | None = arguments.get("scorer")

    def block_end(state: TrainState) -> BlockEnd:
        return BlockEnd(
            state=state,
            inputs=inputs,
            votes=votes,
            statistics=statistics,
            attempt=attempt,
            collective=collective,
            device=device,
        )

    state, completed = train_attempt(
        model,
        inputs.partition,
        run,
        attempt=attempt,
        collective=collective,
        checkpoints=CheckpointFolder(checkpoints),
        watch=watch,
        on_block=lambda state: None if scorer is None else scorer.at_block_end(block_end(state)),
        meter=PrivateStepMeter(
            recorder, planned_steps=spec.training.steps, expected_batch_size=plan.expected_batch_size
        ),
    )
    if scorer is not None:
        scorer.at_end(block_end(state))
    if collective.rank > 0:
        return {}
    files = [asdict(save_weights(out, WEIGHTS, state.averaged_weights()))]
    for path, released in ((VOTES, votes), (STATISTICS, statistics)):
        if released is not None:
            files.append(asdict(file_entry(path, out.read_bytes(path), rows=len(released))))
    return {"files": files, "step": state.step, "completed": completed}
