"""Proposals: drawn alike and on their own, and complete, legal specs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from scipy.stats import chi2_contingency, kstest

from rapid_dist.errors import SpecError
from rapid_dist.tune.costs import apply_proposal, base_proposal, drawn_proposals, with_settings

from .studies import make_study

SPACE = (
    "tune.space={training.learning_rate: {uniform: [0.1, 1.1]}, training.steps: [10, 20, 30], "
    "schedule.kind: [linear, cosine]}"
)


def drawn(count=10, *, has_base=False, seed=3, space=SPACE):
    study = make_study(space)
    return drawn_proposals(study.tune, study.run, count=count, has_base=has_base, seed=seed)


def test_proposals_are_a_function_of_the_seed():
    assert drawn() == drawn()
    assert drawn() != drawn(seed=4)


def test_each_proposal_is_drawn_on_its_own_and_its_count_does_not_matter():
    assert drawn(4) == drawn(10)[:4]
    assert drawn(10, has_base=True)[1:] == drawn(10)[1:]


def test_a_setting_is_drawn_by_its_name_whatever_else_is_searched():
    alone = drawn(6, space="tune.space={training.steps: [10, 20, 30]}")
    assert [p["training.steps"] for p in alone] == [p["training.steps"] for p in drawn(6)]
    twin = drawn(6, space="tune.space={training.learning_rate: {uniform: [0, 1]}, sampling.eta: {uniform: [0, 1]}}")
    assert all(p["training.learning_rate"] != p["sampling.eta"] for p in twin)


def test_proposals_follow_the_law_of_their_axes_and_settings_are_independent():
    found = drawn(1500)
    rates = [p["training.learning_rate"] for p in found]
    assert kstest(rates, "uniform", args=(0.1, 1.0)).pvalue > 1e-3
    assert kstest(rates[1::2], rates[::2]).pvalue > 1e-3
    cells = [
        [sum(p["training.steps"] == n and p["schedule.kind"] == kind for p in found) for kind in ("linear", "cosine")]
        for n in (10, 20, 30)
    ]
    assert chi2_contingency(cells).pvalue > 1e-3
    pairs = Counter((a["training.steps"], b["training.steps"]) for a, b in pairwise(found))
    following = [[pairs[n, m] for m in (10, 20, 30)] for n in (10, 20, 30)]
    assert chi2_contingency(following).pvalue > 1e-3


def test_the_base_comes_first_as_the_spec_has_it():
    study = make_study(SPACE)
    base = {"training.learning_rate": 1e-3, "training.steps": 20, "schedule.kind": "linear"}
    assert base_proposal(study.tune.space, study.run) == base
    assert drawn(3, has_base=True)[0] == base
    assert len(drawn(3, has_base=True)) == 3
    assert drawn(1, has_base=True) == [base]
    assert drawn(0, has_base=True) == []


def test_the_base_proposal_changes_nothing():
    study = make_study(SPACE)
    assert apply_proposal(study.run, base_proposal(study.tune.space, study.run)) == study.run
    assert apply_proposal(study.run, {}) == study.run


def test_a_proposal_sets_what_it_names_and_leaves_the_rest():
    run = make_study().run
    changed = apply_proposal(run, {"training.steps": 7, "privacy.sample_rate": 0.2, "sampling.eta": 0})
    assert (changed.training.steps, changed.privacy.sample_rate, changed.sampling.eta) == (7, 0.2, 0.0)
    undone = with_settings(changed, {"training.steps": 20, "privacy.sample_rate": 0.1, "sampling.eta": 1.0})
    assert undone == run


@pytest.mark.parametrize(
    ("proposal", "split", "query"),
    [
        ({"schedule.split_step": 30}, 30, 75),
        ({"schedule.split_step": 74}, 74, 75),
        ({"schedule.split_step": 75}, 75, 90),
        ({"schedule.split_step": 80}, 80, 95),
        ({"schedule.split_step": 98}, 98, 99),
        ({"schedule.split_step": 100}, 100, 75),
        ({"schedule.split_step": 70, "schedule.query_step": 65}, 70, 85),
        ({"schedule.query_step": 90}, 60, 90),
    ],
)
def test_the_query_step_follows_a_split_that_reached_it(proposal, split, query):
    schedule = apply_proposal(make_study().run, proposal).schedule
    assert (schedule.split_step, schedule.query_step) == (split, query)


def test_a_split_without_room_for_a_query_is_refused_with_what_is_possible():
    with pytest.raises(SpecError, match="propose at most 98, or 100 for no retrieval"):
        apply_proposal(make_study().run, {"schedule.split_step": 99})


@pytest.mark.parametrize(
    ("proposal", "said"),
    [
        ({"schedule.split_step": 101}, "expected 0 to num_train_timesteps 100"),
        ({"training.steps": 12.5}, "training.steps is 12.5"),
        ({"training.class_init": "votes"}, "votes_noise_multiplier is not set"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(proposal, said):
    with pytest.raises(SpecError, match=said):
        apply_proposal(make_study().run, proposal)
