"""Whole small studies on a Ray of two CPUs: what is written, what is charged, what a second call does."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from rapid_dist import layout
from rapid_dist.errors import ArtifactError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import recording
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import BestRunCharge, SubsetCharge
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.run import Run
from rapid_dist.specs import load_spec, parse_spec
from rapid_dist.specs.study import parse_study
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.tune.desk import TrialDesk
from rapid_dist.tune.run import run_study
from rapid_dist.tune.study import Study
from rapid_dist.tune.trials import TrialGauges, read_trials
from rapid_dist.tune.wording import LiveTable
from tests.metrics.recorded import kept_recorder
from tests.tiny import tiny_settings

SPACE = {"schedule.split_step": [50, 70]}
LEARNING_RATE = {"training.learning_rate": {"log": [1e-4, 1e-2]}}


def make_study(sources, *, space, **tune):
    settings = tiny_settings(sources, runtime={"num_workers": 1}, training={"steps": 8})
    del settings["knowledge_base"]["label_map"]
    common = {"num_trials": 2, "num_scored_samples": 40, "classifier_epochs": 1, "space": space}
    return parse_study(yaml.safe_dump({**settings, "tune": {**common, **tune}}))


@pytest.fixture(scope="module")
def study_of(tiny_sources):
    return partial(make_study, tiny_sources)


@pytest.fixture(scope="module")
def proxy(ray_cluster, study_of, tmp_path_factory):
    """A finished public_proxy study: (spec, folder, answer)."""
    out = Store(tmp_path_factory.mktemp("proxy"))
    study = study_of(space=SPACE, mode="public_proxy")
    return study, out, run_study(study, out)


@pytest.mark.slow
def test_a_public_study_reads_no_private_record(proxy):
    _, out, answer = proxy
    assert not out.exists(layout.PRIVATE_IMAGES)
    assert answer["statement"]["epsilon"] == 0
    assert all("pretend to be private" in s["words"] for s in statements_of_trials(out))


@pytest.mark.slow
def test_its_table_holds_every_trial_with_its_settings_and_score(proxy):
    _, out, answer = proxy
    rows = read_trials(out.read_bytes("trials.parquet"))
    assert [row.status for row in rows] == ["finished", "finished"]
    assert rows[0].proposal == {"schedule.split_step": 70}
    assert all(0 <= row.score <= 1 for row in rows)
    assert [row.to_dict() for row in rows] == answer["trials"]


@pytest.mark.slow
def test_its_best_spec_is_one_that_run_takes(proxy, tmp_path):
    study, out, answer = proxy
    best = parse_spec(out.read_bytes("best.yaml").decode())
    assert best.schedule.split_step == answer["study"]["best"]["schedule.split_step"]
    assert best.privacy == study.run.privacy
    (tmp_path / "best.yaml").write_bytes(out.read_bytes("best.yaml"))
    assert load_spec(str(tmp_path / "best.yaml")) == best


@pytest.mark.slow
def test_trials_share_public_models_and_all_but_the_values_of_the_base(proxy):
    _, out, _ = proxy
    tables = read_trials(out.read_bytes("trials.parquet"))
    splits = {row.proposal["schedule.split_step"] for row in tables}
    shared = sorted(p.name for p in Path(out.path("shared")).iterdir())
    assert sum(name.startswith("public-models") for name in shared) == 1
    bases = [read_manifest(out.child(f"shared/{name}")) for name in shared if name.startswith("knowledge-base")]
    assert {base.spec["schedule"]["split_step"] for base in bases} == splits
    graphs = [{f.sha256 for f in base.files if f.path.endswith(".hnsw")} for base in bases]
    assert all(graph == graphs[0] for graph in graphs)


@pytest.fixture(scope="module")
def composed(ray_cluster, study_of, tmp_path_factory):
    """A finished compose study under ASHA: (spec, folder, answer, what its metrics were)."""
    out = Store(tmp_path_factory.mktemp("composed"))
    study = study_of(space=LEARNING_RATE, mode="compose", scheduler="asha", num_rungs=2, reduction_factor=2)
    recorder, seen = kept_recorder()
    with recording(recorder):
        return study, out, run_study(study, out), seen


def test_operators_see_a_studys_trials_and_their_total(composed):
    _, _, answer, seen = composed
    statuses = [row["status"] for row in answer["trials"]]
    for status in ("finished", "stopped", "running"):
        assert seen.of(catalog.TRIALS, status)[-1] == statuses.count(status)
    assert seen.of(catalog.TRIALS, "running")[0] == 0
    assert max(seen.of(catalog.TRIALS, "running")) >= 1
    assert seen.of(catalog.SPENT_EPSILON)[-1] == pytest.approx(answer["statement"]["epsilon"])
    assert seen.of(catalog.STAGE_RUNNING, "tune") == [1, 0]


def test_compose_states_the_composition_of_all_trials(composed):
    study, out, answer, _ = composed
    ledger = read_ledger(out.child(f"{layout.PRIVATE_IMAGES}/{layout.LEDGER}"))
    names = json.loads(out.read_bytes("study.json"))
    delta = study.run.privacy.target_delta
    total = epsilon_pld(ledger.charges, delta)
    assert ledger.of_study(names["study"]).charges == ledger.charges
    assert answer["statement"]["epsilon"] == pytest.approx(total, abs=1e-9)
    assert total <= study.run.privacy.target_epsilon
    alone = [epsilon_pld(ledger.charges_of(job), delta) for job in ledger.jobs]
    assert len(alone) == 2
    assert max(alone) < total
    assert sorted(row["epsilon"] for row in answer["trials"]) == pytest.approx(sorted(alone))


def statements_of_trials(work: Store) -> list[dict]:
    """The statements that finished trials carry, in the order of their names."""
    manifests = [
        read_manifest(work.child(f"trials/{name}/train")) for name in json.loads(work.read_bytes("trials/names.json"))
    ]
    return [manifest.facts["statement"] for manifest in manifests if manifest is not None]


def test_a_trial_that_composes_states_what_its_study_had_cost_until_then(composed):
    _, out, answer, _ = composed
    study = json.loads(out.read_bytes("study.json"))["study"]
    stated = statements_of_trials(out)
    assert stated
    for statement in stated:
        assert statement["counted"] == f"study {study!r}"
        assert statement["epsilon"] <= answer["statement"]["epsilon"]
    assert parse_spec(out.read_bytes("best.yaml").decode()).privacy.study == study


def test_every_noisy_score_of_a_rung_is_paid_for(composed):
    _, out, answer, _ = composed
    ledger = read_ledger(out.child(f"{layout.PRIVATE_IMAGES}/{layout.LEDGER}"))
    paid = sum(charge.num_steps for charge in ledger.charges if charge.purpose == "noisy accuracy")
    assert paid == sum(len(trial["rungs"]) for trial in answer["trials"])


def test_the_winner_is_a_run_that_is_trained_already(composed):
    _, out, answer, _ = composed
    ledger = out.child(f"{layout.PRIVATE_IMAGES}/{layout.LEDGER}")
    before = read_ledger(ledger).head
    run = Run(parse_spec(out.read_bytes("best.yaml").decode()), out.child("best"))
    results = run.run_stages(("pretrain", "build-kb", "train", "sample"))
    assert [r.skipped for r in results] == [True, True, True, False, False]
    assert read_ledger(ledger).head == before
    stated = read_manifest(run.store(layout.SAMPLES)).facts["statement"]
    assert stated["epsilon"] == answer["statement"]["epsilon"]


def test_the_same_call_again_changes_nothing(composed):
    study, out, answer, _ = composed
    again = run_study(study, out)
    assert [t["rungs"] for t in again["trials"]] == [t["rungs"] for t in answer["trials"]]
    assert [t["attempts"] for t in again["trials"]] == [t["attempts"] for t in answer["trials"]]


def test_ctrl_c_interrupts_again_after_a_study(composed):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_another_study_into_the_same_folder_is_refused(composed):
    study, out, *_ = composed
    other = replace(study, tune=replace(study.tune, seed=5))
    with pytest.raises(ArtifactError, match="holds another study"):
        run_study(other, out)


def test_what_a_stopped_trials_workers_claimed_is_free_for_the_next(composed):
    import ray

    study, out, _, _ = composed
    desk = TrialDesk(Study(study, out), LiveTable("tiny"), TrialGauges(None, num_trials=2))
    (trial, _) = desk.book.all()
    claim = ray.util.placement_group([{"CPU": 2}])
    ray.get(claim.ready(), timeout=30)
    desk.handle({"kind": "group", "trial": trial.name, "group": claim})
    desk.ended(trial)
    another = ray.util.placement_group([{"CPU": 2}])
    assert another.wait(30)
    ray.util.remove_placement_group(another)


def test_repeat_select_pays_once_and_shows_the_winner_alone(composed, study_of, tmp_path, capfd):
    shutil.copytree(composed[1].path("shared"), tmp_path / "private" / "shared")
    study = study_of(space=LEARNING_RATE, mode="repeat_select", selection={"num_runs": "geometric", "mean_runs": 1.5})
    out = Store(tmp_path)
    recorder, seen = kept_recorder()
    with recording(recorder):
        answer = run_study(study, out)
    ledger = read_ledger(out.child(f"{layout.PRIVATE_IMAGES}/{layout.LEDGER}"))
    (charge,) = ledger.charges
    assert isinstance(charge, BestRunCharge)
    # Operators see its ledger and that it is at work.
    about_ledger = {m.name for m in catalog.CATALOG.values() if "ledger" in m.name or "epsilon" in m.name}
    assert {name for name, *_ in seen.values} == {*about_ledger, catalog.TARGET_DELTA.name, catalog.STAGE_RUNNING.name}
    assert seen.of(catalog.SPENT_EPSILON)[-1] == pytest.approx(charge.bound[0])
    assert answer["statement"]["epsilon"] == pytest.approx(charge.bound[0])
    assert charge.bound[0] <= study.run.privacy.target_epsilon
    # What trials state stays with them; only the winner's copy carries the promise, and it is the study's.
    assert all("only the winner may leave" in s["words"] for s in statements_of_trials(out.child("private")))
    best = read_manifest(out.child("best/train"))
    assert (best.not_private_reasons, best.facts["statement"]) == ([], answer["statement"])
    seen = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file()}
    assert seen == {
        "images", "private", "best", "best.yaml", "statement.json", "study.html", "study.json", "study.yaml"
    }  # fmt: skip
    assert "trials" not in answer
    said = capfd.readouterr().err
    assert "t0000" not in said
    assert "split_step" not in said


@pytest.mark.slow
def test_subset_pays_for_its_trials_and_leaves_the_rest_to_the_final_run(composed, study_of, tmp_path):
    shutil.copytree(composed[1].path("shared"), tmp_path / "shared")
    study = study_of(space=LEARNING_RATE, mode="subset", subset={"sample_rate": 0.5, "epsilon": 6.0})
    out = Store(tmp_path)
    answer = run_study(study, out)
    whole = read_ledger(out.child(f"{layout.PRIVATE_IMAGES}/{layout.LEDGER}"))
    (charge,) = whole.charges
    assert isinstance(charge, SubsetCharge)
    subset = out.child("images/subset")
    assert read_ledger(subset.child(layout.LEDGER)).spent_epsilon() <= 6.0
    stated = statements_of_trials(out)
    assert max(s["attempts"] for s in stated) == 2
    assert max(s["epsilon"] for s in stated) <= 6.0
    members = sum(f.rows for f in read_manifest(subset).files)
    everyone = sum(f.rows for f in read_manifest(out.child(layout.PRIVATE_IMAGES)).files)
    assert 0.3 * everyone < members < 0.7 * everyone
    # Its delta is below the target's, so at the target it comes to a little less than its own epsilon.
    assert 0.99 * charge.bound[0] < answer["statement"]["epsilon"] <= charge.bound[0]
    run = Run(parse_spec(out.read_bytes("best.yaml").decode()), out.child("final"))
    (made,) = (tmp_path / "shared").glob("public-models-*")
    shutil.copytree(made, run.store(layout.PRETRAIN).uri)
    run.run_stages(("ingest", "pretrain", "build-kb", "train"))
    after = read_ledger(run.ledger)
    assert after.charges[0] == charge
    assert charge.bound[0] < after.spent_epsilon() <= study.run.privacy.target_epsilon
    # The final run's settings came of the trials, so its statement counts them.
    stated = read_manifest(run.store(layout.TRAIN)).facts["statement"]
    assert stated["epsilon"] == pytest.approx(after.spent_epsilon())
    assert stated["target_epsilon"] == study.run.privacy.target_epsilon
