from dataclasses import replace

import numpy as np
import pytest

from rapid_dist.sampling import starts
from rapid_dist.sampling.starts import VotedPrototypes, draw_prototypes, public_labels, retrieve_starts
from tests.sampling.helpers import (
    LABEL_MAP,
    NUM_CLASSES,
    NUM_PROTOTYPES,
    NUM_PUBLIC,
    NUM_ROWS,
    Counted,
    ids_of_values,
    make_models,
    make_search,
    spec_with,
)

INDEX = np.arange(300, dtype=np.int64)
LABEL = INDEX % NUM_CLASSES
# Class 0 has one prototype, class 1 two of five, class 2 all but the first and last.
SHARES = np.array([[0, 0, 1.0, 0, 0], [0.25, 0, 0, 0, 0.75], [0, 0.5, 0.25, 0.25, 0]])
# Prototype 1 is unlabelled.
LABELS = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1.0], [0.2, 0.8, 0, 0]])
VOTED = VotedPrototypes(shares=SHARES, labels=LABELS)


def start_ids(spec, *, voted=None, index=INDEX, label=LABEL, models=None) -> np.ndarray:
    """The trajectory each sample starts from."""
    search = make_search()
    values = retrieve_starts(spec, models or make_models(), search, index, label, voted, device="cpu")
    ids = ids_of_values(values)
    assert np.array_equal(values.numpy(), search.values_of(ids))
    return ids


def test_only_prototypes_with_a_share_are_drawn_and_in_their_proportions():
    index = np.arange(30_000)
    label = index % NUM_CLASSES
    drawn = draw_prototypes(VOTED, label, index, seed=0)
    for private_class in range(NUM_CLASSES):
        counts = np.bincount(drawn[label == private_class], minlength=NUM_PROTOTYPES)
        expected = SHARES[private_class] * 10_000
        assert (counts[expected == 0] == 0).all()
        assert (np.abs(counts - expected) <= 4 * np.sqrt(expected * (1 - SHARES[private_class]))).all()


def test_a_drawn_prototype_follows_the_index_and_the_seed():
    drawn = draw_prototypes(VOTED, LABEL, INDEX, seed=0)
    some = np.array([200, 4, 31])
    assert np.array_equal(draw_prototypes(VOTED, LABEL[some], INDEX[some], seed=0), drawn[some])
    assert not np.array_equal(draw_prototypes(VOTED, LABEL, INDEX, seed=1), drawn)


def test_the_public_class_of_a_voted_start_is_one_of_its_prototype():
    prototype = INDEX % NUM_PROTOTYPES
    chosen = public_labels(spec_with(), LABEL, prototype, VOTED, INDEX)
    for p in range(NUM_PROTOTYPES):
        possible = set(np.flatnonzero(LABELS[p])) or {-1}
        assert set(chosen[prototype == p]) == possible


def test_the_public_class_without_votes_is_one_of_the_label_map():
    chosen = public_labels(spec_with(label_map=LABEL_MAP), LABEL, None, None, INDEX)
    assert all(LABEL_MAP[c] == y for c, y in zip(chosen, LABEL, strict=True))
    assert np.bincount(chosen[LABEL == 2], minlength=4)[2:].min() > 30
    partial = public_labels(spec_with(label_map={3: 1}), LABEL, None, None, INDEX)
    assert set(partial[LABEL == 1]) == {3}
    assert set(partial[LABEL != 1]) == {-1}
    assert set(public_labels(spec_with(), LABEL, None, None, INDEX)) == {-1}


def test_nearest_starts_come_from_the_public_classes_the_map_allows():
    found = start_ids(spec_with(label_map=LABEL_MAP))
    assert all(LABEL_MAP[i % NUM_PUBLIC] == y for i, y in zip(found, LABEL, strict=True))
    free = start_ids(spec_with())
    assert len({(i % NUM_PUBLIC, y) for i, y in zip(free, LABEL, strict=True)}) > 6


def test_voted_starts_come_from_the_drawn_prototype_and_spread_over_it():
    found = start_ids(spec_with(), voted=VOTED)
    drawn = draw_prototypes(VOTED, LABEL, INDEX, seed=0)
    assert np.array_equal(found // 3 % NUM_PROTOTYPES, drawn)
    assert set(drawn[LABEL == 0]) == {2}
    # 24 trajectories have prototype 2; each sample takes one of the 16 nearest to its own state.
    assert len(set(found[LABEL == 0])) >= 12


def test_a_prototype_with_fewer_entries_than_asked_for_still_gives_a_start(monkeypatch):
    monkeypatch.setattr(starts, "PROTOTYPE_NEIGHBORS", NUM_ROWS)
    found = start_ids(spec_with(eta=0.0), voted=VOTED)
    assert np.array_equal(found // 3 % NUM_PROTOTYPES, draw_prototypes(VOTED, LABEL, INDEX, seed=0))
    assert len(set(found[LABEL == 0])) == NUM_ROWS // NUM_PROTOTYPES


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("voted", [None, VOTED], ids=["nearest", "votes"])
def test_a_start_depends_on_its_index_and_label_alone(eta, voted):
    spec = spec_with(eta=eta, label_map={} if voted else LABEL_MAP)
    whole = start_ids(spec, voted=voted)
    parts = [start_ids(spec, voted=voted, index=INDEX[i : i + 70], label=LABEL[i : i + 70]) for i in range(0, 300, 70)]
    # A near tie between two neighbours may fall either way when products add in another order.
    assert (np.concatenate(parts) == whole).mean() > 0.99


def test_the_key_is_made_at_the_query_step_without_guidance():
    models = make_models()
    counted = Counted(models.denoiser)
    start_ids(spec_with(guidance=3.0, num_steps=50), models=replace(models, denoiser=counted))
    assert counted.timesteps == list(range(49, 39, -1))


def test_one_step_and_a_stochastic_sampler_go_together():
    spec = spec_with(eta=1.0, num_steps=1, schedule={"query_step": 49, "split_step": 48})
    assert start_ids(spec).shape == (300,)


def test_even_the_smallest_uniform_picks_no_share_of_zero():
    shares = np.array([[0.0, 0.0, 1.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert starts._pick(shares, np.zeros(3)).tolist() == [2, 0, -1]
    assert starts._pick(shares, np.full(3, 1 - 2.0**-53)).tolist() == [2, 2, -1]
