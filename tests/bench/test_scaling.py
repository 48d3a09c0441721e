"""Turns of one and of two workers are real, paid-for training, and come to the numbers that the meter counted."""

from __future__ import annotations

import pytest
import torch

from rapid_dist.bench.privacy_overhead import MNIST_SETTINGS
from rapid_dist.bench.scaling import PARTS, ScalingSettings, scaling_worker, summarise_scaling, table_lines
from rapid_dist.errors import SpecError
from rapid_dist.privacy.ledger import open_ledger
from rapid_dist.specs import parse_spec
from rapid_dist.storage.store import Store
from rapid_dist.training.plan import build_plan
from tests.bench.test_privacy_overhead import TINY
from tests.training.helpers import returned, run_workers

SETTINGS = ScalingSettings(rounds=2, steps=3)


class Book:
    """A ledger with the one method that only its client has."""

    def __init__(self, ledger):
        self._ledger = ledger

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def statement_line(self, plan, *, job):
        return ""


@pytest.fixture(scope="module")
def spec():
    return parse_spec(MNIST_SETTINGS, overrides=(*TINY, "training.steps=20"))


@pytest.fixture(scope="module")
def measured(spec, tmp_path_factory):
    """(ledger, rank 0's answer)"""
    folder, plan = Store(tmp_path_factory.mktemp("scaling")), build_plan(spec)
    ledger = open_ledger(folder.child("ledger"), **plan.ledger_terms())
    arguments = {"spec": spec, "plan": plan, "settings": SETTINGS, "ledger": Book(ledger), "out": folder.child("out")}
    before = torch.get_num_threads()
    try:
        return ledger, returned(run_workers(2, lambda collective: scaling_worker(collective, arguments)))[0]
    finally:
        torch.set_num_threads(before)


def test_every_turn_is_an_attempt_whose_steps_were_paid_for(measured):
    ledger, _ = measured
    assert len(ledger.attempts) == 2 * (1 + SETTINGS.rounds)
    assert sum(c.num_steps for c in ledger.charges if c.purpose == "training") == 2 * (1 + 2 * 3)


def test_the_meter_counted_every_part_of_every_turn_but_the_first(measured):
    _, answer = measured
    for turns in answer["seconds"].values():
        assert [set(turn) for turn in turns] == [set(PARTS)] * SETTINGS.rounds
        assert all(turn["gradient"] > 0 and turn["checkpoint"] > 0 and turn["ledger"] > 0 for turn in turns)


def test_the_summary_by_hand(spec):
    turn = {"data": 0.3, "gradient": 5.7, "all_reduce": 0.0, "noise": 0.3, "update": 0.3, "checkpoint": 0.2}
    one = {**turn, "ledger": 0.1}
    two = {**one, "data": 0.15, "gradient": 2.85, "all_reduce": 0.6}
    slow = {**one, "gradient": 11.7}
    answer = {
        "seconds": {"1": [one, slow, one], "2": [two, two, one]},
        "num_parameters": 1000,
    }
    result = summarise_scaling(answer, spec, build_plan(spec), SETTINGS)
    # 6.6 s of 3 steps, and 0.3 s of a charge and a checkpoint for the 2 steps of a block.
    assert result.step_one == pytest.approx(2.2 + 0.15)
    assert result.step_two == pytest.approx(1.4 + 0.15)
    assert result.efficiencies == pytest.approx([2.35 / 3.1, 4.35 / 3.1, 0.5])
    assert result.efficiency == pytest.approx(2.35 / 3.1)
    assert result.parts_two["all_reduce"] == pytest.approx(0.2)
    assert result.parts_one["ledger"] == pytest.approx(0.05)
    text = "\n".join(table_lines(result))
    assert "efficiency t1 / (2 t2) = 75.8%, rounds 75.8%, 140.3%, 50.0%" in text
    assert all(f"\n{name} " in text for name in PARTS)


def test_more_steps_than_the_budget_pays_for_are_refused(spec):
    with pytest.raises(SpecError, match=r"are 62 steps; the spec's budget pays for 20"):
        ScalingSettings(rounds=3, steps=10).require_room(build_plan(spec))
