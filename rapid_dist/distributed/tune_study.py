"""A study's state on the driver: its data, what was paid beforehand, and what each trial is told to run."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rapid_dist import layout
from rapid_dist.artifacts.storage import Store
from rapid_dist.distributed.tune_data import divide_public, draw_private_subset
from rapid_dist.distributed.tune_shared import SharedArtefacts
from rapid_dist.errors import ArtifactError, RapidDistError
from rapid_dist.pipeline import Run, ingest_datasets
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import join_ledger, open_ledger
from rapid_dist.privacy.ledger_book import Ledger
from rapid_dist.privacy.plan import PrivacyPlan, build_plan
from rapid_dist.privacy.study import draw_num_runs
from rapid_dist.specs import RunSpec
from rapid_dist.specs.parsing import differing_keys
from rapid_dist.specs.tuning import COMPOSE, PUBLIC_PROXY, REPEAT_SELECT, SUBSET, StudySpec, parse_study
from rapid_dist.training.state import CheckpointFolder, checkpoint_notes
from rapid_dist.tuning.costs import TrialPlan, plan_trial, study_budget, study_charge
from rapid_dist.tuning.outcome import trial_row
from rapid_dist.tuning.proposals import with_settings
from rapid_dist.tuning.results import TrialRow
from rapid_dist.tuning.scorer import rung_checkpoint
from rapid_dist.tuning.table import LiveTable
from rapid_dist.tuning.trials import Trial, TrialBook

STUDY, JOB, PRIVATE, DRAWN = "study.yaml", "study.json", "private", "drawn.json"
_THROW_AWAY_EPSILON = 1000.0  # of a ledger of public images that pretend: it promises nothing to anyone


class Study:
    """One study's folder and the answers that its trials get. Thread-safe where trials ask."""

    def __init__(self, spec: StudySpec, out: Store):
        self.spec, self.out = spec, out
        self.mode = spec.tune.cost_mode
        # What must not leave before the winner is known lies in a folder of its own.
        self.work = out.child(PRIVATE) if self.is_secret else out
        self.book = TrialBook(self.work.child("trials"))
        self.run = Run(spec.run, out)
        self.live: LiveTable | None = None
        self._lock, self._began = threading.Lock(), {}
        self._data: Any = None

    @property
    def is_secret(self) -> bool:
        """Whether nothing of the trials but the winner may be seen."""
        return self.mode == REPEAT_SELECT

    def save_spec(self) -> None:
        """Saves the spec before anything runs. Raises ArtifactError for a folder of another study."""
        if self.out.exists(STUDY):
            saved = parse_study(self.out.read_bytes(STUDY).decode(), source=f"{self.out.uri}/{STUDY}")
            if saved.digest != self.spec.digest:
                changes = differing_keys(saved.meaning(), self.spec.meaning())
                raise ArtifactError(
                    f"{self.out.uri} holds another study ({'; '.join(changes[:3])}); use another --out folder, or the "
                    "first spec"
                )
        self.out.write_bytes(STUDY, self.spec.to_yaml().encode())

    @property
    def name(self) -> str:
        """The name under which ledgers keep this study; made once."""
        self.out.create_exclusive(JOB, json.dumps({"study": secrets.token_hex(8)}).encode())
        return json.loads(self.out.read_bytes(JOB))["study"]

    def prepare(self) -> None:
        """Ingests, pays what is paid beforehand, and makes the data sets that trials work on."""
        reads_private = self.mode != PUBLIC_PROXY
        ingest_datasets(self.run, ("public", "private") if reads_private else ("public",))
        if reads_private:
            self.pay()
        public = self.run.public
        if self.mode == PUBLIC_PROXY:
            self._data = divide_public(public, self.out.child("proxy"), self.spec.tune)
            public = self._data.knowledge
        elif self.mode == SUBSET:
            draw_private_subset(self.run.private, self.subset, self.spec.tune.subset)
            budget = study_budget(self.spec)
            privacy = self.spec.run.privacy
            open_ledger(
                self.subset.child(layout.LEDGER),
                target_epsilon=budget.epsilon,
                target_delta=budget.delta,
                neighboring_relation=privacy.neighboring_relation,
                unit=privacy.unit,
            )
        self.shared = SharedArtefacts(public=public, folder=self.out.child("shared"))

    @property
    def subset(self) -> Store:
        """The secret subset, a data set of its own."""
        return self.out.child("images/subset")

    def first_spec(self) -> RunSpec:
        """The spec of the trial that runs the base as it stands, for what can be made before any trial."""
        return self._planned({}).spec

    def num_trials(self) -> int:
        """How many trials there are; under repeat_select drawn once, in secret, and kept."""
        if not self.is_secret:
            return self.spec.tune.num_trials
        selection = self.spec.tune.selection
        drawn = {"count": draw_num_runs(selection.num_runs, selection.mean_runs), "seed": secrets.randbits(62)}
        self.work.create_exclusive(DRAWN, json.dumps(drawn).encode())
        return int(json.loads(self.work.read_bytes(DRAWN))["count"])

    def candidate_seed(self) -> int:
        """What candidates are drawn by: the spec's seed, or a secret one where the draw itself must not be known."""
        return int(json.loads(self.work.read_bytes(DRAWN))["seed"]) if self.is_secret else self.spec.tune.seed

    def row(self, trial: Trial) -> TrialRow:
        """What is known of a trial."""
        return trial_row(self.book, trial, ledger=None if self.mode == PUBLIC_PROXY else self.ledger_of(trial))

    def rows(self) -> list[TrialRow]:
        """What is known of all trials that ever began."""
        return [self.row(trial) for trial in self.book.all()]

    def plan(self) -> PrivacyPlan:
        """The promise of the study as a whole: its target on the whole data set."""
        return build_plan(self.spec.run)

    def ledger(self) -> Ledger:
        """The ledger of the whole private data set."""
        return join_ledger(self.run.ledger, **self.plan().ledger_terms())

    def pay(self) -> None:
        """Charges what pays for the whole study, once, whatever was killed and started again.

        Guarantee: durable before a trial, or a subset, sees a record. Raises BudgetExceededError.
        """
        charge, ledger = study_charge(self.spec), self.ledger()
        if charge is None or charge in ledger.charges_of(self.name):
            return
        plan = {**self.plan().to_plain(), **self._study_terms()}
        attempt = ledger.begin_attempt(plan, job=self.name, planned=(charge,))
        ledger.charge(charge, attempt=attempt)

    def _study_terms(self) -> dict[str, Any]:
        privacy = self.spec.run.privacy
        return {
            "study": self.name,
            "study_target_epsilon": privacy.target_epsilon,
            "study_target_delta": privacy.target_delta,
        }

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answers a trial: begin (what to run), ended, failed (it made no sense)."""
        kind = request["kind"]
        if kind == "begin":
            return self._begin(request)
        if kind == "ended":
            self.end(request["trial"], status=request["status"], reason=request["reason"])
            return {}
        self._failed(request["tune_id"], request["reason"])
        return {}

    def name_of(self, tune_id: str) -> str | None:
        """The trial that Ray Tune knows by this id."""
        return next((t.name for t in self.book.all() if t.tune_id == tune_id), None)

    def end(self, name: str, *, status: str, reason: str) -> None:
        """Keeps how a trial ended; the first word stands."""
        with self._lock:
            if self.book.ending(name) is None:
                seconds = time.monotonic() - self._began.get(name, time.monotonic())
                self.book.end(name, status=status, reason=reason, seconds=seconds)

    def _failed(self, tune_id: str, reason: str) -> None:
        name = self.name_of(tune_id)
        if name is not None:
            self.end(name, status="failed", reason=reason)

    def _begin(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            trial = self._trial_of(request)
            self.book.reopen(trial.name)
            self._began.setdefault(trial.name, time.monotonic())
        if self.live is not None:
            self.live.began(self.row(trial))
        if trial.reason:
            raise RapidDistError(trial.reason)
        artefacts = self.shared.of(trial.spec)
        base = artefacts.knowledge_base
        folder = self.book.folder(trial.name)
        return {
            "trial": trial.name,
            "spec": trial.spec_yaml,
            "job": trial.job,
            "folder": folder.uri,
            "train": folder.child(trial.train_folder).uri,
            "images": self._images().uri,
            "reference": self._reference().uri,
            "pretrain": artefacts.pretrain.uri,
            "knowledge_base": None if base is None else base.uri,
            "ledger": self.ledger_of(trial).uri,
            "attempt_terms": self._attempt_terms(trial),
        }

    def _trial_of(self, request: Mapping[str, Any]) -> Trial:
        """The trial as it began, or begun now: its noise is fixed once, and is known to all that follow."""
        candidate = request["candidate"]
        known = self.name_of(request["tune_id"])
        name = known or (f"t{candidate:04d}" if candidate is not None else f"t{len(self.book.names()):04d}")
        trial, donor = self.book.get(name), request["donor"]
        if trial is None:
            trial = self._new_trial(name, request)
        elif donor is not None and donor["trial"] != name and not self._is_clone_of(trial, donor):
            trial = self._clone(trial, donor, request["proposal"])
        elif trial.tune_id != request["tune_id"]:  # Ray Tune forgot it when it was killed
            trial = replace(trial, tune_id=request["tune_id"])
        else:
            return trial
        self.book.put(trial)
        return trial

    def _new_trial(self, name: str, request: Mapping[str, Any]) -> Trial:
        common = {
            "name": name,
            "proposal": dict(request["proposal"]),
            "job": f"{self.name}/{name}" if self.mode in (COMPOSE, SUBSET) else name,
            "tune_id": request["tune_id"],
        }
        try:
            planned = self._planned(request["proposal"])
        except RapidDistError as error:
            return Trial(**common, spec_yaml=self.spec.run.to_yaml(), charges=(), reason=str(error))
        trial = Trial(**common, spec_yaml=planned.spec.to_yaml(), charges=planned.charges)
        if self.mode == PUBLIC_PROXY:
            privacy = planned.spec.privacy
            open_ledger(
                self.ledger_of(trial),
                target_epsilon=_THROW_AWAY_EPSILON,
                target_delta=privacy.target_delta,
                neighboring_relation=privacy.neighboring_relation,
                unit=privacy.unit,
            )
        return trial

    def _planned(self, proposal: Mapping[str, Any]) -> TrialPlan:
        if self.mode == PUBLIC_PROXY:
            data = self._data
            return plan_trial(self.spec, proposal, num_private=data.num_private, num_classes=data.num_classes)
        if self.mode == REPEAT_SELECT:
            return plan_trial(self.spec, proposal)
        left = self.spec.tune.num_trials - len(self.book.names())
        return plan_trial(self.spec, proposal, already=self._already(), trials_left=max(1, left))

    def _already(self) -> tuple[Charge, ...]:
        """What earlier trials charged, and what those that run may still charge."""
        ledger = self._trials_ledger()
        charges: list[Charge] = []
        for trial in self.book.all():
            is_over = self.book.ending(trial.name) is not None
            charges += ledger.charges_of(trial.job) if is_over else trial.charges
        return tuple(charges)

    def _trials_ledger(self) -> Ledger:
        store = self.subset.child(layout.LEDGER) if self.mode == SUBSET else self.run.ledger
        return join_ledger(store, **self.plan().ledger_terms())

    def _is_clone_of(self, trial: Trial, donor: Mapping[str, Any]) -> bool:
        return trial.inherits is not None and trial.inherits["rung"] == f"{donor['job']} {donor['step']}"

    def _clone(self, trial: Trial, donor: Mapping[str, Any], proposal: Mapping[str, Any]) -> Trial:
        """The trial goes on from another's rung, with other settings: its spec keeps the donor's mechanism."""
        given = self.book.get(donor["trial"])
        data = self.book.folder(donor["trial"]).read_bytes(rung_checkpoint(donor["step"]))
        generation = trial.generation + 1
        clone = replace(
            trial,
            proposal=dict(proposal),
            generation=generation,
            job=f"{self.name}/{trial.name}/{generation}",
            parent=donor["trial"],
            spec_yaml=self._with_mechanism_of(given, proposal),
            charges=given.charges,
            ledger=self.ledger_of(given).uri,
            inherits={
                "job": donor["job"],
                "entry": checkpoint_notes(data)["ledger_entry"],
                "rung": f"{donor['job']} {donor['step']}",
            },
        )
        CheckpointFolder(self.book.folder(trial.name).child(f"{clone.train_folder}/checkpoints")).adopt(data)
        return clone

    def _with_mechanism_of(self, given: Trial, proposal: Mapping[str, Any]) -> str:
        return with_settings(given.spec, proposal).to_yaml()

    def _attempt_terms(self, trial: Trial) -> dict[str, Any]:
        terms: dict[str, Any] = {}
        if self.mode == COMPOSE:
            terms |= self._study_terms()
        if trial.inherits is not None:
            terms["inherits"] = {name: trial.inherits[name] for name in ("job", "entry")}
        return terms

    def ledger_of(self, trial: Trial) -> Store:
        """Where a trial's charges are written: with its data set, or thrown away where its cost is none or paid."""
        if self.mode == COMPOSE:
            return self.run.ledger
        if self.mode == SUBSET:
            return self.subset.child(layout.LEDGER)
        return Store(trial.ledger) if trial.ledger else self.book.folder(trial.name).child(layout.LEDGER)

    def _images(self) -> Store:
        if self.mode == PUBLIC_PROXY:
            return self._data.private
        return self.subset if self.mode == SUBSET else self.run.private

    def _reference(self) -> Store:
        if self.mode == PUBLIC_PROXY:
            return self._data.held_out
        return self._images() if self.spec.tune.score_name == "noisy_accuracy" else self.run.public
