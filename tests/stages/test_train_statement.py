"""What a finished training states follows from its attempts in the ledger; no Ray, and no record is read."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, replace

import pytest

from rapid_dist.errors import BudgetExceededError, PrivacyError
from rapid_dist.models.public import PRETRAIN
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.ledger import FIXED_KEY_REASON, NOT_PRIVATE, join_ledger, open_ledger, read_ledger
from rapid_dist.runtime.ledger_actor import _LedgerServer
from rapid_dist.specs import parse_spec
from rapid_dist.stages import train
from rapid_dist.stages.train import WEIGHTS, TrainOptions, run_train
from rapid_dist.storage.manifest import Manifest, read_manifest, write_file, write_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST
from rapid_dist.training.plan import build_plan
from rapid_dist.tune.outcome import publish_winner
from tests.tune.test_trials import make_trial

DELTA = 1e-3
STUDY = {"study": "s", "study_target_epsilon": 1.6, "study_target_delta": DELTA}
SPEC = parse_spec(
    """
data: {private: p, public: q, num_classes: 2}
privacy: {target_epsilon: 2, target_delta: 1e-3, sample_rate: 0.1, nominal_size: 200, noise_multiplier: 1.5}
schedule: {num_train_timesteps: 100, split_step: 100, query_step: 90}
training: {steps: 20, checkpoint_every: 20}
"""
)
PLAN = build_plan(SPEC)
COST_OF_TWO = epsilon_pld([PLAN.training_charge(40)], DELTA)


def of_study(study: str = "s"):
    """The spec as a study's best.yaml names it."""
    return replace(SPEC, privacy=replace(SPEC.privacy, study=study))


class Dataset:
    """A private dataset and public models by their manifests alone, and a ledger with one trial of a study."""

    def __init__(self, folder: Store, *, budget: float = 9.0):
        self.images, self.pretrain, self.folder = folder.child("images"), folder.child("pretrain"), folder
        for store, stage, kind in ((self.images, INGEST, "private"), (self.pretrain, PRETRAIN, "public")):
            write_manifest(store, Manifest(stage=stage, privacy_class=kind, spec={}, inputs={}, files=[]))
        self.store = folder.child("images/ledger")
        self.ledger = open_ledger(self.store, target_epsilon=budget, target_delta=DELTA, unit="one image")
        self.charge("s/t0", STUDY, 20)

    def charge(self, job: str, terms: dict, num_steps: int) -> None:
        attempt = self.ledger.begin_attempt({**PLAN.to_plain(), **terms}, job=job)
        if num_steps:
            self.ledger.charge(PLAN.training_charge(num_steps), attempt=attempt, first_step=0)

    def train(self, spec=SPEC, *, out: str = "out", num_steps: int = 20, **options) -> Manifest:
        """run_train with a worker that begins its attempt, pays for its steps and saves weights, and does no more."""

        def run_fn(worker, arguments, **_):
            plan, ledger, store = (arguments[name] for name in ("plan", "ledger", "out"))
            attempt = ledger.begin_attempt({**plan.to_plain(), **arguments["terms"]}, job=arguments["job"])
            if num_steps:
                ledger.charge(plan.training_charge(num_steps), attempt=attempt, first_step=0)
            files = [asdict(write_file(store, WEIGHTS, b"weights"))]
            return {"files": files, "step": num_steps, "completed": num_steps == plan.steps}

        options = TrainOptions(run_fn=run_fn, **options)
        return run_train(spec, self.images, self.pretrain, None, self.store, self.folder.child(out), options=options)


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Dataset:
    @contextlib.contextmanager
    def in_this_process(store, **terms):
        yield join_ledger(store, **terms)

    monkeypatch.setattr(train, "ledger_actor", in_this_process)
    monkeypatch.setattr(train, "start_ray", lambda: None)
    return Dataset(Store(tmp_path))


def test_a_trial_states_what_its_study_has_cost_so_far(dataset):
    """compose: the trial's settings came of the scores of earlier ones, so its own charges are not what it cost."""
    manifest = dataset.train(job="s/t1", terms=STUDY)
    stated = manifest.facts["statement"]
    assert stated["epsilon"] == COST_OF_TWO > epsilon_pld([PLAN.training_charge(20)], DELTA)
    assert (stated["target_epsilon"], stated["counted"]) == (1.6, "study 's'")
    assert manifest.not_private_reasons == ()


def test_the_line_in_a_trials_checkpoints_states_it_too(dataset):
    dataset.charge("s/t1", STUDY, 20)
    line = json.loads(_LedgerServer(dataset.store, PLAN.ledger_terms()).statement_line(PLAN, "s/t1"))
    assert COST_OF_TWO <= line["epsilon"] < COST_OF_TWO + 1e-2
    assert (line["target_epsilon"], line["attempts"]) == (1.6, 2)


def test_a_job_outside_of_any_study_states_its_own_cost_and_that_of_all(dataset):
    stated = dataset.train().facts["statement"]
    assert stated["epsilon"] == epsilon_pld([PLAN.training_charge(20)], DELTA)
    assert stated["dataset"]["epsilon"] == COST_OF_TWO


def test_a_trial_that_may_not_leave_carries_no_promise(dataset):
    manifest = dataset.train(terms={NOT_PRIVATE: "a trial that may not leave"})
    assert manifest.not_private_reasons == ("a trial that may not leave",)
    assert manifest.facts["statement"]["words"] == "NOT PRIVATE: a trial that may not leave"


def test_a_debugging_attempt_of_the_study_marks_a_training_whose_own_plan_is_private(dataset):
    dataset.charge("s/t0", {**STUDY, "is_private": False}, 0)
    assert dataset.train(job="s/t1", terms=STUDY).not_private_reasons == (FIXED_KEY_REASON,)
    assert dataset.train(out="another").not_private_reasons == ()


def test_a_training_that_nothing_paid_for_ends_without_a_statement(dataset):
    with pytest.raises(PrivacyError, match="so nothing can be stated about it"):
        dataset.train(num_steps=0)
    assert read_manifest(dataset.folder.child("out")) is None


def test_a_best_spec_trained_elsewhere_is_a_member_of_its_study(dataset):
    stated = dataset.train(of_study()).facts["statement"]
    assert stated["epsilon"] == COST_OF_TWO
    assert len(read_ledger(dataset.store).of_study("s").jobs) == 2


def test_it_is_refused_in_one_line_when_the_study_has_no_room(dataset):
    dataset.charge("s/t1", STUDY, 20)
    before = dataset.store.list_files()
    with pytest.raises(BudgetExceededError, match=r"over the target of study .s. 1\.6.*trained already") as caught:
        dataset.train(of_study())
    assert "its images cost nothing more" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert dataset.store.list_files() == before
    with pytest.raises(BudgetExceededError) as caught:  # a trial of a study that runs is told nothing of a winner
        dataset.train(out="trial", job="s/t2", terms=STUDY)
    assert "trained already" not in str(caught.value)


def test_it_is_refused_on_a_dataset_that_does_not_know_the_study(dataset):
    with pytest.raises(PrivacyError, match=r"'other', which the dataset's ledger does not know; run best\.yaml on the"):
        dataset.train(of_study("other"))
    for name in dataset.store.list_files():
        dataset.store.delete(name)
    with pytest.raises(PrivacyError, match="'s', which the dataset's ledger does not know"):
        dataset.train(of_study(), out="another")


def test_the_published_winner_finds_its_training_finished_and_charges_nothing(dataset):
    dataset.train(out="trials/t1/train", job="s/t1", terms=STUDY)
    best = dataset.folder.child("best")
    statement = {"words": "both", "epsilon": COST_OF_TWO, "not_private_reasons": []}
    spec = publish_winner(
        make_trial("t1", spec_yaml=SPEC.to_yaml()),
        dataset.folder.child("trials/t1/train"),
        dataset.pretrain,
        None,
        best,
        study="s",
        statement=statement,
        private=dataset.images,
        public=dataset.folder.child("public"),
    )
    before = dataset.store.list_files()
    again = run_train(spec, dataset.images, dataset.pretrain, None, dataset.store, best.child("train"))
    assert (again.facts["statement"], spec.privacy.study) == (statement, "s")
    assert dataset.store.list_files() == before
