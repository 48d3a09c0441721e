"""What a study leaves: rows, the winner as a run of its own, and nothing of the trials where they are secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rapid_dist.errors import ArtifactError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.ledger import open_ledger
from rapid_dist.specs import load_spec
from rapid_dist.storage.manifest import read_file, read_manifest, write_file
from rapid_dist.storage.stage import StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.tune.outcome import copy_artefact, publish_winner, study_facts, trial_row, write_outcome
from rapid_dist.tune.scorer import write_rung
from rapid_dist.tune.trials import TrialBook, read_trials
from tests.wall_times import times_in_files

from .example_rows import make_row, make_rows
from .studies import make_study
from .test_trials import CHARGES, make_trial

NOISE = "privacy.noise_multiplier=2"
STATEMENT = {
    "words": "The winner is (4, 1e-4)-differentially private.",
    "epsilon": 3.9,
    "delta": 1e-4,
    "sentences": [],
    "not_private_reasons": [],
}


@pytest.fixture
def place(tmp_path) -> Store:
    return Store(tmp_path)


# rows


@pytest.fixture
def book(place) -> TrialBook:
    book = TrialBook(place.child("trials"))
    book.put(make_trial("t0000", spec_yaml=make_study(NOISE).run.to_yaml()))
    return book


def test_a_row_says_what_the_files_of_its_trial_say(book):
    write_rung(book.folder("t0000"), 10, 0.25)
    write_rung(book.folder("t0000"), 15, 0.5)
    running = trial_row(book, book.get("t0000"), ledger=None)
    assert (running.status, running.score, running.step, running.steps) == ("running", 0.5, 15, 20)
    assert running.rungs == ((10, 0.25), (15, 0.5))
    assert (running.noise_multiplier, running.sample_rate, running.expected_batch_size) == (2.0, 0.1, 100.0)
    assert (running.epsilon, running.attempts) == (None, 0)
    book.end("t0000", status="stopped", reason="slow", seconds=3.0)
    ended = trial_row(book, book.get("t0000"), ledger=None)
    assert (ended.status, ended.reason, ended.seconds) == ("stopped", "slow", 3.0)


def test_a_row_costs_what_the_ledger_says_of_its_job_alone(book, place):
    ledger = open_ledger(place.child("ledger"), target_epsilon=90, target_delta=1e-4)
    for job, charges in (("study/t0000", CHARGES), ("study/t0001", CHARGES[:1]), ("study/t0000", CHARGES[:1])):
        attempt = ledger.begin_attempt({}, job=job)
        for charge in charges:
            ledger.charge(charge, attempt=attempt)
    row = trial_row(book, book.get("t0000"), ledger=place.child("ledger"))
    assert row.epsilon == epsilon_pld([*CHARGES, CHARGES[0]], 1e-4)
    assert row.attempts == 2


def test_a_trial_that_never_ran_has_a_reason_and_no_noise(book):
    book.put(make_trial("t0001", reason="no room for it"))
    row = trial_row(book, book.get("t0001"), ledger=book.store.child("no ledger"))
    assert (row.reason, row.noise_multiplier, row.sample_rate, row.score, row.epsilon) == (
        "no room for it",
        None,
        None,
        None,
        None,
    )


# the winner


def make_artefact(store: Store, content: bytes = b"weights", *, reasons=(), **facts) -> Store:
    """A finished stage of one file."""
    entry = write_file(store, "denoiser.safetensors", content)
    spec = {"a": len(facts), "privacy": {"target_epsilon": 4, "study": None}}
    StageFolder(store, stage="train", spec=spec, inputs={}).finish(
        privacy_class="dp", files=[entry], facts=facts, not_private_reasons=reasons
    )
    return store


def test_a_copied_artefact_is_whole_and_comes_with_what_lies_beside_it(place):
    source = make_artefact(place.child("source"))
    source.write_bytes("versions/1.json", b"{}")
    source.write_bytes("scratch/left.bin", b"x")
    copy_artefact(source, place.child("target"), beside=("versions", "absent"))
    assert read_manifest(place.child("target")) == read_manifest(source)
    assert sorted(place.child("target").list_files()) == sorted(["denoiser.safetensors", "manifest.json"])
    assert place.child("target").read_bytes("versions/1.json") == b"{}"


def test_a_copy_over_another_of_the_same_sizes_is_the_new_one(place):
    target = place.child("target")
    for content in (b"first!!", b"second!", b"second!"):
        source = make_artefact(place.child(content.decode()), content)
        copy_artefact(source, target)
        assert read_file(target, read_manifest(target).files[0]) == content


def test_a_damaged_artefact_is_not_copied(place):
    source = make_artefact(place.child("source"))
    source.write_bytes("denoiser.safetensors", b"damaged")
    with pytest.raises(ArtifactError, match="does not match its digest"):
        copy_artefact(source, place.child("target"))
    assert read_manifest(place.child("target")) is None


def published(place, **changes):
    trained = make_artefact(
        place.child("trials/t0011/train"),
        steps=20,
        completed=True,
        noise_multiplier=2.0,
        job="t0011",
        attempts=3,
        dataset={"target_epsilon": 1.5, "spent_epsilon": 1.25},
        statement={"words": "what the trial cost alone"},
        reasons=["a trial that may not leave"],
    )
    spec = publish_winner(
        make_trial("t0011", spec_yaml=make_study(NOISE).run.to_yaml(), job="t0011"),
        trained,
        make_artefact(place.child("shared/models"), b"public"),
        changes.get("knowledge_base", make_artefact(place.child("shared/base"), b"base")),
        place.child("best"),
        study="5d0c",
        statement=changes.get("statement", STATEMENT),
        private=place.child("images/private"),
        public=place.child("images/public"),
    )
    return spec, place.child("best")


def test_the_winner_is_a_run_with_the_statement_of_its_study(place):
    spec, best = published(place)
    assert load_spec(best.path("spec.yaml")) == spec
    assert (spec.data.private, spec.data.public) == (
        place.child("images/private").uri,
        place.child("images/public").uri,
    )
    assert spec.privacy.noise_multiplier == 2
    manifest = read_manifest(best.child("train"))
    assert manifest.facts["statement"] == STATEMENT
    assert manifest.not_private_reasons == []
    assert (manifest.facts["steps"], manifest.facts["completed"]) == (20, True)
    assert read_file(best.child("train"), manifest.files[0]) == b"weights"
    assert {path.name for path in place_path(best).iterdir()} >= {"train", "spec.yaml", "pretrain"}


def test_a_winner_names_its_study_in_its_spec_and_where_it_was_trained(place):
    """So that training it once more on this dataset is counted with the study, and sampling costs nothing."""
    spec, best = published(place)
    assert spec.privacy.study == load_spec(best.path("spec.yaml")).privacy.study == "5d0c"
    assert read_manifest(best.child("train")).spec == {"a": 7, "privacy": {"target_epsilon": 4, "study": "5d0c"}}


def test_a_winner_of_a_study_that_is_not_private_is_not_private(place):
    _, best = published(place, statement={**STATEMENT, "not_private_reasons": ["a debugging key"]})
    assert read_manifest(best.child("train")).not_private_reasons == ["a debugging key"]


def place_path(store: Store) -> Path:
    return Path(store.uri)


def test_a_winner_does_not_tell_how_many_there_were(place):
    _, best = published(place)
    files = [p for p in place_path(best).rglob("*") if p.is_file()]
    assert len(files) >= 7
    for path in files:
        assert "t0011" not in str(path.relative_to(best.uri))
        for word in (b"t0011", b"may not leave", b"attempts", b"spent_epsilon", b"what the trial cost alone"):
            assert word not in path.read_bytes(), path


def test_a_winner_does_not_tell_how_long_its_trial_took(place):
    _, best = published(place)
    assert read_manifest(best.child("train")).seconds is None
    assert times_in_files(best.child("train"), ["manifest.json"]) == {}


def test_a_winner_without_retrieval_has_no_knowledge_base(place):
    _, best = published(place, knowledge_base=None)
    assert [p.name for p in place_path(best).iterdir() if "kb" in p.name or "knowledge" in p.name] == []


# the files of a study


def outcome(place, mode, rows, *, is_secret, name="out"):
    study = (
        make_study(f"tune.mode={mode}", "tune.space={training.steps: [50, 100], schedule.split_step: {int: [30, 60]}}")
        if mode != "repeat_select"
        else make_study("tune.mode=repeat_select", "tune.num_trials=5")
    )
    reused = [] if is_secret else [{"what": "public models", "times": 2, "seconds_saved": 1.0}]
    paths = write_outcome(
        place.child(name), study, rows, best_spec=study.run, statement=STATEMENT, reused=reused, is_secret=is_secret
    )
    return study, paths, place.child(name)


def test_an_open_study_leaves_its_trials_pictures_and_page(place):
    rows = [
        make_row(i, proposal={"training.steps": 50 * (1 + i % 2), "schedule.split_step": 30 + i}, score=i / 9, steps=50)
        for i in range(4)
    ]
    study, paths, out = outcome(place, "compose", rows, is_secret=False)
    assert read_trials(out.read_bytes("trials.parquet")) == rows
    assert load_spec(paths["best.yaml"]) == study.run
    assert json.loads(out.read_bytes("statement.json")) == STATEMENT
    pictures = {"score_over_steps", "score_over_split_step", "noise_over_steps", "parallel_coordinates"}
    assert set(paths) == {"best.yaml", "statement.json", "trials.parquet", "study.html"} | {
        f"plots/{name}.png" for name in pictures
    }
    assert all(out.read_bytes(f"plots/{name}.png").startswith(b"\x89PNG") for name in pictures)
    assert b"t0003" in out.read_bytes("study.html")


@pytest.mark.parametrize("mode", ["compose", "subset", "repeat_select"])
def test_a_study_that_read_private_images_does_not_tell_how_long_its_trials_took(place, mode):
    """One more large scan among the private images moves such a number."""
    settings = {"training.steps": 50, "schedule.split_step": 30}
    rows = [make_row(i, proposal=settings, score=i / 9, steps=50, seconds=4321.0 + i) for i in range(4)]
    _, paths, out = outcome(place, mode, rows, is_secret=mode == "repeat_select")
    assert times_in_files(out, [name for name in paths if name.endswith((".json", ".parquet"))]) == {}
    assert "1 h 12 min" not in out.read_bytes("study.html").decode()
    if mode != "repeat_select":
        assert [row.seconds for row in read_trials(out.read_bytes("trials.parquet"))] == [None] * 4


def test_a_study_of_public_images_tells_how_long_its_trials_took(place):
    settings = {"training.steps": 50, "schedule.split_step": 30}
    rows = [make_row(i, proposal=settings, score=i / 9, steps=50, seconds=4321.0 + i) for i in range(4)]
    _, _, out = outcome(place, "public_proxy", rows, is_secret=False)
    assert read_trials(out.read_bytes("trials.parquet")) == rows
    assert "1 h 12 min" in out.read_bytes("study.html").decode()


def test_a_secret_study_leaves_the_winner_and_the_statement_alone(place):
    winner = make_row(7, proposal={"training.learning_rate": 0.002}, score=0.987654, seconds=321.0)
    alone, crowd = (
        outcome(place, "repeat_select", [winner, *others], is_secret=True, name=name)
        for name, others in (("alone", []), ("crowd", [r for r in make_rows(30) if r.trial != winner.trial]))
    )
    expected = {"best.yaml", "statement.json", "study.html"}
    for _, paths, out in (alone, crowd):
        assert set(paths) == expected
        assert {str(p.relative_to(out.uri)) for p in place_path(out).rglob("*")} == expected
    for name in expected:
        assert alone[2].read_bytes(name) == crowd[2].read_bytes(name)
        for word in (b"t0007", b"0.987", b"0.988", b"321"):
            assert word not in crowd[2].read_bytes(name)
    assert b"0.002" in crowd[2].read_bytes("study.html")


def test_without_a_named_mode_no_statement_is_written(place):
    study = make_study("tune.space={training.steps: [50, 100]}")
    rows = [make_row(i, proposal={"training.steps": 50 + i}) for i in range(2)]
    paths = write_outcome(place, study, rows, best_spec=None, statement=None, reused=[], is_secret=False)
    assert not {"best.yaml", "statement.json"} & set(paths)
    assert study_facts(study, rows, [])["mode"] is None
