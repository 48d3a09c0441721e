"""A whole run on two workers: what it leaves, what it paid, and that a second call changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rapid_dist import layout
from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import merge_charges
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.run import Run
from rapid_dist.stages.knowledge_base import run_build_knowledge_base
from rapid_dist.stages.pretrain import run_pretrain
from rapid_dist.stages.train import run_train
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import read_all_images
from rapid_dist.training.plan import build_plan
from tests.tiny import CLASS_COUNTS, NUM_DUPLICATES, NUM_PRIVATE, NUM_PUBLIC
from tests.wall_times import times_in_files

CLASSES = {
    layout.PUBLIC_IMAGES: "public",
    layout.PRIVATE_IMAGES: "private",
    layout.TEST_IMAGES: "private",
    layout.PRETRAIN: "public",
    layout.KNOWLEDGE_BASE: "public",
    layout.TRAIN: "dp",
    layout.SAMPLES: "dp",
    layout.PUBLIC_SAMPLES: "public",
    layout.EVALUATION: "private",
}
REPORT_KEYS = {
    "target_epsilon",
    "spent_epsilon",
    "delta",
    "neighboring_relation",
    "accuracy.synthetic",
    "accuracy.public_only",
    "accuracy.real",
    "fid",
    "fid_features",
    "precision",
    "recall",
    "density",
    "coverage",
    "denoiser_evaluations_per_image.per_image",
    "denoiser_evaluations_per_image.full_run",
    "stage_seconds.train",
}


def state_of(folder):
    """Path -> (bytes, time of change, inode) of every file under a folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def numbers_in(text):
    return {int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", text)}


@pytest.mark.parametrize(("folder", "privacy_class"), CLASSES.items())
def test_every_stage_states_its_privacy_class(finished_run, folder, privacy_class):
    assert read_manifest(finished_run.store(folder)).privacy_class == privacy_class


def test_nothing_lies_in_the_folder_of_a_run_but_the_known_artefacts(finished_run):
    manifests = {
        p.parent.relative_to(finished_run.out.uri).as_posix() for p in Path(finished_run.out.uri).rglob("manifest.json")
    }
    assert manifests == set(CLASSES)
    assert not list(Path(finished_run.out.uri).rglob("begun.json"))
    assert not list(Path(finished_run.out.uri).rglob(".tmp-*"))


def test_the_images_are_those_of_the_sources_without_private_copies_of_public_ones(finished_run):
    private, public = (read_all_images(s, read_manifest(s)) for s in (finished_run.private, finished_run.public))
    assert len(public) == NUM_PUBLIC
    assert np.bincount(private.label).tolist() == list(CLASS_COUNTS)
    assert read_manifest(finished_run.private).facts["num_dropped"] == NUM_DUPLICATES


def test_the_ledger_charged_what_was_planned_and_nothing_else(finished_run):
    plan, paid = build_plan(finished_run.spec), read_ledger(finished_run.ledger)
    assert [(c.mechanism, c.num_steps, c.noise_multiplier, c.sample_rate) for c in merge_charges(paid.charges)] == [
        (c.mechanism, c.num_steps, c.noise_multiplier, c.sample_rate) for c in merge_charges(plan.planned_charges())
    ]
    assert len(paid.attempts) == 1
    assert paid.spent_epsilon() == pytest.approx(epsilon_pld(plan.planned_charges(), plan.target_delta), rel=1e-9)
    assert paid.spent_epsilon() < plan.target_epsilon


def test_the_statement_of_every_dp_artefact_is_the_ledgers(finished_run):
    paid = read_ledger(finished_run.ledger)
    for folder in (layout.TRAIN, layout.SAMPLES):
        statement = read_manifest(finished_run.store(folder)).facts["statement"]
        assert statement["epsilon"] == pytest.approx(paid.spent_epsilon(), rel=1e-9)
        assert statement["ledger_head"] == paid.head
        assert statement["not_private_reasons"] == []


def test_no_private_count_and_no_digest_of_private_images_is_in_a_dp_manifest(finished_run):
    counts = {*CLASS_COUNTS, NUM_PRIVATE, NUM_PRIVATE + NUM_DUPLICATES}
    private = read_manifest(finished_run.private)
    assert NUM_PRIVATE in numbers_in(private.to_bytes().decode())
    for store in (*map(finished_run.store, (layout.TRAIN, layout.SAMPLES)), finished_run.ledger):
        for file in store.list_files():
            if file.endswith(".json"):
                text = store.read_bytes(file).decode()
                assert not counts & numbers_in(text), f"{store.uri}/{file}"
                assert private.files[0].sha256 not in text
                assert private.facts["salt"] not in text


def test_the_votes_are_noisy(finished_run):
    from rapid_dist.storage.tables import table_arrays

    noisy = table_arrays(finished_run.store(layout.TRAIN).read_bytes("votes.parquet"))["noisy_votes"]
    assert noisy.shape == (4, 8)
    assert np.abs(noisy - np.rint(noisy)).max() > 1e-3


def test_samples_are_as_many_as_asked_for_with_known_labels(finished_run):
    for folder in (layout.SAMPLES, layout.PUBLIC_SAMPLES):
        store = finished_run.store(folder)
        table = read_all_images(store, read_manifest(store))
        assert np.sort(table.example_id).tolist() == list(range(40))
        assert np.bincount(table.label).tolist() == [10] * 4
        assert table.image.shape == (40, 1, 8, 8)


def test_the_report_has_every_promised_number(finished_run):
    folder = finished_run.store(layout.EVALUATION)
    report = json.loads(folder.read_bytes("report.json"))
    for key in REPORT_KEYS:
        value = report
        for name in key.split("."):
            value = value[name]
        assert value is not None, key
    told = finished_run.report()
    assert told["stage_seconds"].pop("evaluate") > 0  # known only once the report is written
    assert told == report
    assert report["spent_epsilon"] <= report["target_epsilon"] == 8
    assert report["denoiser_evaluations_per_image"]["per_image"] < report["denoiser_evaluations_per_image"]["full_run"]
    shared = json.loads(folder.read_bytes("shareable/report.json"))
    assert shared["fid"] is None
    assert shared["accuracy"]["synthetic"] is None
    assert shared["spent_epsilon"] == report["spent_epsilon"]


def files_below(store):
    root = Path(store.uri)
    return [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]


def test_no_wall_time_is_in_an_artefact_of_class_dp_nor_in_what_may_be_shared(finished_run):
    """Manifests had milliseconds and the shareable report tenths of a second: one more large scan moved them."""
    dp = [store for store in map(finished_run.store, CLASSES) if read_manifest(store).privacy_class == "dp"]
    assert [store.uri for store in dp] == [finished_run.store(f).uri for f in (layout.TRAIN, layout.SAMPLES)]
    shareable = finished_run.store(layout.EVALUATION).child("shareable")
    for store in (*dp, shareable, finished_run.ledger):
        assert len(files_below(store)) >= 3
        assert times_in_files(store, files_below(store)) == {}
    page = shareable.read_bytes("report.html").decode()
    assert "All stages" not in page
    assert "All stages" in finished_run.store(layout.EVALUATION).read_bytes("report.html").decode()


def test_the_owner_still_knows_how_long_each_stage_took(finished_run):
    logged = finished_run.owner_log.seconds()
    assert list(logged) == [result.stage for result in finished_run.results]
    assert all(result.seconds == round(logged[result.stage], 1) > 0 for result in finished_run.results)
    assert set(finished_run.report()["stage_seconds"]) == set(logged) - {"ingest test"}


def test_a_second_call_skips_every_stage_and_touches_no_file(finished_run):
    before = state_of(finished_run.out.uri)
    again = Run(finished_run.spec, finished_run.out).run_stages()
    assert [r.stage for r in again] == [r.stage for r in finished_run.results]
    assert not any(r.skipped for r in finished_run.results)
    assert all(r.skipped for r in again)
    assert state_of(finished_run.out.uri) == before


def test_private_images_are_refused_where_public_ones_are_needed(finished_run, tmp_path):
    run, spec = finished_run, finished_run.spec
    refused = pytest.raises(PrivacyError, match=r"images/private is private; expected public data here")
    with refused:
        run_pretrain(spec, run.private, Store(tmp_path / "pretrain"))
    with refused:
        run_build_knowledge_base(spec, run.private, run.store(layout.PRETRAIN), Store(tmp_path / "base"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_class_dp_is_refused_where_a_public_one_is_needed(finished_run, tmp_path):
    run = finished_run
    with pytest.raises(PrivacyError, match="samples/private is dp; expected public"):
        run_pretrain_from(run.store(layout.SAMPLES), run.spec, tmp_path)
    with pytest.raises(PrivacyError, match="images/public is public; expected private"):
        run_train(
            run.spec,
            run.public,
            run.store(layout.PRETRAIN),
            run.knowledge_base,
            Store(tmp_path / "ledger"),
            Store(tmp_path / "train"),
        )
    assert list(tmp_path.iterdir()) == []


def run_pretrain_from(samples, spec, tmp_path):
    """Pretraining on samples re-labelled as an ingested dataset, their class kept."""
    import dataclasses

    from rapid_dist.storage.manifest import write_manifest

    manifest = read_manifest(samples)
    disguised = tmp_path.parent / f"{tmp_path.name}-disguised" / "samples" / "private"
    write_manifest(Store(disguised), dataclasses.replace(manifest, stage="ingest"))
    run_pretrain(spec, Store(disguised), Store(tmp_path / "pretrain"))
