"""A study's state on the driver: its data, what was paid beforehand, and what is known of its trials."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rapid_dist import layout
from rapid_dist.errors import ArtifactError
from rapid_dist.privacy.calibration import draw_num_runs
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import NOT_PRIVATE, Ledger, PaidSteps, has_ledger, join_ledger, open_ledger, read_ledger
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.run import Run
from rapid_dist.specs import RunSpec
from rapid_dist.specs.study import COMPOSE, PUBLIC_PROXY, REPEAT_SELECT, SUBSET, StudySpec, parse_study
from rapid_dist.stages.pipeline import ingest_datasets
from rapid_dist.storage.digest import differing_keys
from rapid_dist.storage.store import Store
from rapid_dist.training.plan import build_plan
from rapid_dist.tune.costs import TrialPlan, exceeds_plan, plan_trial, study_budget, study_charge
from rapid_dist.tune.data import divide_public, draw_private_subset
from rapid_dist.tune.outcome import trial_row
from rapid_dist.tune.shared import SharedArtefacts
from rapid_dist.tune.trials import Trial, TrialBook, TrialRow

_NO_PROMISE = {
    REPEAT_SELECT: "a trial of a study of which only the winner may leave, with the statement of the study",
    PUBLIC_PROXY: "a trial on public images that pretend to be private, which promises nothing to anyone",
}
STUDY, JOB, PRIVATE, DRAWN = "study.yaml", "study.json", "private", "drawn.json"


class Study:
    """One study: its folder, its data, its budget and its trials."""

    def __init__(self, spec: StudySpec, out: Store):
        self.spec, self.out = spec, out
        self.mode = spec.tune.cost_mode
        # What must not leave before the winner is known lies in a folder of its own.
        self.work = out.child(PRIVATE) if self.is_secret else out
        self.book = TrialBook(self.work.child("trials"))
        self.run = Run(spec.run, out)
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
        paid = self.pay() if reads_private else None
        public = self.run.public
        if self.mode == PUBLIC_PROXY:
            self._data = divide_public(public, self.out.child("proxy"), self.spec.tune)
            public = self._data.knowledge
        elif self.mode == SUBSET:
            draw_private_subset(self.run.private, self.subset, paid)
            budget = study_budget(self.spec)
            privacy = self.spec.run.privacy
            open_ledger(
                self.subset.child(layout.LEDGER),
                target_epsilon=budget.epsilon,
                target_delta=budget.delta,
                neighboring_relation=privacy.neighboring_relation,
                unit=privacy.unit,
            )
        self.shared = SharedArtefacts(public=public, folder=self.work.child("shared"))

    @property
    def subset(self) -> Store:
        """The secret subset, a data set of its own."""
        return self.out.child("images/subset")

    def first_spec(self) -> RunSpec:
        """The spec of the trial that runs the base as it stands, for what can be made before any trial."""
        return self.planned({}).spec

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
        """What is known of a trial.

        Guarantee: under repeat_select a trial that restarts made use more of any mechanism than the study paid for has
        failed, so it is not the winner and never leaves.
        """
        store = None if self.mode == PUBLIC_PROXY else self.ledger_of(trial)
        row = trial_row(self.book, trial, ledger=store)
        if self.is_secret and has_ledger(store) and exceeds_plan(read_ledger(store).charges, trial.charges):
            return replace(row, status="failed", reason="restarts used a mechanism more often than was paid for")
        return row

    def rows(self) -> list[TrialRow]:
        """What is known of all trials that ever began."""
        return [self.row(trial) for trial in self.book.all()]

    def plan(self) -> PrivacyPlan:
        """The promise of the study as a whole: its target on the whole data set."""
        return build_plan(self.spec.run)

    def ledger(self) -> Ledger:
        """The ledger of the whole private data set."""
        return join_ledger(self.run.ledger, **self.plan().ledger_terms())

    def pay(self) -> PaidSteps | None:
        """Charges what pays for the whole study, once, whatever was killed and started again; None if nothing does.

        Guarantee: durable before a trial, or a subset, sees a record. Raises BudgetExceededError.
        """
        charge, ledger = study_charge(self.spec), self.ledger()
        if charge is None:
            self._require_room_for_trials(ledger)
            return None
        paid = ledger.paid_before(charge, job=self.name)
        if paid is None:
            plan = {**self.plan().to_plain(), **self.terms()}
            attempt = ledger.begin_attempt(plan, job=self.name, planned=(charge,))
            paid = ledger.charge(charge, attempt=attempt)
        return paid

    def _require_room_for_trials(self, ledger: Ledger) -> None:
        """Raises BudgetExceededError when trials like the first would exceed what the data set has left."""
        count = self.spec.tune.num_trials
        if self.name not in ledger.studies:
            first = plan_trial(self.spec, {}, trials_left=count)
            plan = {**self.plan().to_plain(), **self.terms()}
            ledger.require_room(first.charges * count, job=self.name, plan=plan)

    def terms(self) -> dict[str, Any]:
        """What attempts say of the study, by which the ledger limits all of them together."""
        privacy = self.spec.run.privacy
        return {
            "study": self.name,
            "study_target_epsilon": privacy.target_epsilon,
            "study_target_delta": privacy.target_delta,
        }

    def trial_terms(self) -> dict[str, Any]:
        """Returns what attempts of trials say: the study that counts them, or why their statements are no promise.

        Guarantee: a trial whose settings depend on other trials is counted with all of them, on the data that it
        read; a trial that no charge of its own pays for carries no statement that can be taken for a promise.
        """
        if self.mode == COMPOSE:
            return self.terms()
        if self.mode == SUBSET:
            budget = study_budget(self.spec)
            return {**self.terms(), "study_target_epsilon": budget.epsilon, "study_target_delta": budget.delta}
        return {NOT_PRIVATE: _NO_PROMISE[self.mode]}

    def planned(self, proposal: Mapping[str, Any]) -> TrialPlan:
        """The trial of a proposal, were it to begin now."""
        if self.mode == PUBLIC_PROXY:
            data = self._data
            return plan_trial(self.spec, proposal, num_private=data.num_private, num_classes=data.num_classes)
        if self.mode == REPEAT_SELECT:
            return plan_trial(self.spec, proposal)
        left = self.spec.tune.num_trials - len(self.book.names())
        return plan_trial(self.spec, proposal, already=self._already(), trials_left=max(1, left))

    def _already(self) -> tuple[Charge, ...]:
        """What earlier trials charged, and all that those that run may charge."""
        ledger = self.trials_ledger()
        running = {t.job: t for t in self.book.all() if self.book.ending(t.name) is None}
        jobs = [job for job in ledger.jobs if job.startswith(f"{self.name}/") and job not in running]
        over = [charge for job in jobs for charge in ledger.charges_of(job)]
        return (*over, *(charge for trial in running.values() for charge in trial.charges))

    def trials_ledger(self) -> Ledger:
        """Where trials pay one by one: the data set's ledger, or the subset's."""
        store = self.subset.child(layout.LEDGER) if self.mode == SUBSET else self.run.ledger
        return join_ledger(store, **self.plan().ledger_terms())

    def ledger_of(self, trial: Trial) -> Store:
        """Where a trial's charges are written: with its data set, or thrown away where its cost is none or paid."""
        if self.mode == COMPOSE:
            return self.run.ledger
        if self.mode == SUBSET:
            return self.subset.child(layout.LEDGER)
        return self.book.folder(trial.name).child(layout.LEDGER)

    @property
    def images(self) -> Store:
        """The records that trials train on."""
        if self.mode == PUBLIC_PROXY:
            return self._data.private
        return self.subset if self.mode == SUBSET else self.run.private

    @property
    def reference(self) -> Store:
        """The images that trials are scored on."""
        if self.mode == PUBLIC_PROXY:
            return self._data.held_out
        return self.images if self.spec.tune.score_name == "noisy_accuracy" else self.run.public
