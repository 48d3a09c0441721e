"""Trials and their rungs in files: kept as they began, in order, and known again after a restart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rapid_dist.privacy.charges import Charge
from rapid_dist.storage.store import Store
from rapid_dist.tune.scorer import read_rung, read_rungs, rung_number, rung_steps, write_rung
from rapid_dist.tune.trials import Trial, TrialBook

from .studies import make_study

CHARGES = (
    Charge(mechanism="gaussian", noise_multiplier=5.0, num_steps=1, purpose="votes"),
    Charge(mechanism="poisson_gaussian", noise_multiplier=1.5, sample_rate=0.1, num_steps=20, purpose="training"),
)


def make_trial(name: str = "t0000", **changes) -> Trial:
    settings = {
        "name": name,
        "proposal": {"training.steps": 7, "schedule.kind": "linear", "sampling.class_proportions": [0.5, 0.5, 0, 0]},
        "spec_yaml": make_study().run.to_yaml(),
        "charges": CHARGES,
        "job": f"study/{name}",
    }
    return Trial(**{**settings, **changes})


@pytest.mark.parametrize("changes", [{}, {"tune_id": "x_1"}, {"charges": (), "reason": "no room"}])
def test_a_trial_reads_what_it_wrote(changes):
    trial = make_trial(**changes)
    assert Trial.from_bytes(trial.to_bytes()) == trial
    assert trial.spec == make_study().run


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "trials")


def test_trials_are_known_in_the_order_they_began_by_another_process_too(store):
    book = TrialBook(store)
    assert (book.names(), book.all(), book.get("t0000")) == ([], [], None)
    for name in ("t0002", "t0000", "t0001"):
        book.put(make_trial(name))
    book.put(make_trial("t0000", tune_id="x_2"))
    again = TrialBook(store)
    assert again.names() == ["t0002", "t0000", "t0001"]
    assert again.all() == [make_trial("t0002"), make_trial("t0000", tune_id="x_2"), make_trial("t0001")]
    assert again.get("t0003") is None


def test_a_trial_that_was_named_but_not_yet_written_is_passed_over(store):
    book = TrialBook(store)
    book.put(make_trial("t0000"))
    store.write_bytes("names.json", b'["t0000", "t0001"]')
    assert [t.name for t in TrialBook(store).all()] == ["t0000"]


def test_an_ending_stands_until_the_trial_is_opened_again(store):
    book = TrialBook(store)
    book.put(make_trial())
    assert book.ending("t0000") is None
    book.end("t0000", status="stopped", reason="", seconds=1.26)
    assert TrialBook(store).ending("t0000") == {"status": "stopped", "reason": "", "seconds": 1.3}
    book.reopen("t0000")
    book.reopen("t0000")
    assert book.ending("t0000") is None
    assert book.get("t0000") == make_trial()


def test_rungs_are_kept_by_step_and_other_files_beside_them_are_no_scores(store):
    folder = TrialBook(store).folder("t0000")
    assert (read_rung(folder, 10), read_rungs(folder)) == (None, ())
    for step, score in ((1000, 0.5), (20, 0.1 + 0.2), (10, -1.5)):
        write_rung(folder, step, score)
    folder.write_bytes("rungs/.tmp-20.json.part", b"half a write")
    assert read_rung(folder, 20) == 0.1 + 0.2
    assert read_rungs(folder) == TrialBook(store).rungs("t0000") == ((10, -1.5), (20, 0.1 + 0.2), (1000, 0.5))


@pytest.mark.parametrize(
    ("steps", "block", "num_rungs", "expected"),
    [
        (20, 5, 1, (20,)),
        (20, 5, 2, (10, 20)),
        (20, 5, 4, (5, 10, 15, 20)),
        (20, 5, 9, (5, 10, 15, 20)),
        (20, 8, 2, (16, 20)),
        (21, 5, 2, (15, 21)),
        (20, 50, 3, (20,)),
        (7, 1, 3, (3, 5, 7)),
    ],
)
def test_rungs_are_ends_of_blocks_in_equal_parts_and_the_last_is_the_last_step(steps, block, num_rungs, expected):
    training = replace(make_study().run.training, steps=steps, checkpoint_every=block)
    assert rung_steps(training, num_rungs) == expected


BASE = make_study().run.training


def test_there_are_never_more_rungs_than_were_paid_for_and_each_ends_a_block():
    for steps in range(1, 40):
        for block in (1, 3, 7, 50):
            ends = {*range(block, steps + 1, block), steps}
            for num_rungs in (1, 2, 3, 10):
                training = replace(BASE, steps=steps, checkpoint_every=block)
                found = rung_steps(training, num_rungs)
                assert len(found) <= num_rungs
                assert set(found) <= ends
                assert found[-1] == steps


def test_a_score_keeps_its_rung_when_the_trial_is_restarted():
    """Counting reports instead would call the second rung of a restarted trial its first."""
    training = replace(BASE, steps=20, checkpoint_every=5)
    assert [rung_number(training, 4, step) for step in (5, 10, 15, 20)] == [1, 2, 3, 4]
    assert rung_number(training, 4, 12) == 3  # the budget ended between two rungs
