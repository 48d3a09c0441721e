import itertools

import numpy as np
import pytest
import torch

from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.privacy.release import vote_shares
from rapid_dist.specs import DenoiserSpec
from rapid_dist.training.private_data import CLASS_WEIGHT, public_class_weights, start_private_model

SPEC = DenoiserSpec(width=6, num_blocks=1, embedding_dim=4)


def build(num_conditions: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return build_denoiser(SPEC, latent_shape=(3,), num_conditions=num_conditions, generator=generator)


def started(num_private, num_public, *, class_init="distinct", label_map=None, class_shares=None, seed=0):
    """The private model after its start, and the public weights it started from."""
    private, public = build(num_private, 1), build(num_public, 2).state_dict()
    weights = public_class_weights(
        num_private, max(1, num_public), label_map=label_map or {}, class_shares=class_shares
    )
    start_private_model(private, public, class_init=class_init, weights=weights, seed=seed)
    return private.state_dict(), public


def chosen_classes(state, public) -> list[int]:
    """Which public class's embedding each private class has."""
    table, source = state[CLASS_WEIGHT], public[CLASS_WEIGHT]
    return [
        next(j for j in range(source.shape[1]) if torch.equal(table[:, i], source[:, j])) for i in range(table.shape[1])
    ]


def test_votes_below_two_noise_deviations_count_for_nothing():
    shares = vote_shares(np.array([[30.0, 10.0, 5.9, -8.0], [6.0, -6.0, 0.0, 3.0]]), 3.0)
    assert shares.tolist() == [[0.75, 0.25, 0.0, 0.0], [0.25] * 4]


def test_vote_shares_are_shares_whatever_the_noise():
    noisy = np.random.default_rng(0).normal(0, 50, size=(20, 7))
    shares = vote_shares(noisy, 10.0)
    assert (shares >= 0).all()
    assert shares.sum(1) == pytest.approx(np.ones(20))


def test_vote_shares_leave_the_release_as_it_was():
    noisy = np.array([[30.0, -1.0]])
    vote_shares(noisy, 1.0)
    assert noisy.tolist() == [[30.0, -1.0]]


def test_the_label_map_wins_over_the_votes():
    votes = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    weights = public_class_weights(2, 3, label_map={0: 0, 1: 0, 2: 1, 9: 1}, class_shares=votes)
    assert weights.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    assert public_class_weights(2, 3, label_map={}, class_shares=votes).tolist() == votes.tolist()


def test_a_class_nothing_is_known_of_has_no_weight():
    assert public_class_weights(2, 2, label_map={1: 0}, class_shares=None).tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert public_class_weights(1, 2, label_map={}, class_shares=np.zeros((1, 2))).tolist() == [[0.0, 0.0]]


def test_everything_but_the_classes_starts_as_the_public_model():
    state, public = started(3, 5)
    for name, value in public.items():
        if name != CLASS_WEIGHT:
            assert torch.equal(state[name], value)


@pytest.mark.parametrize("num_public", [5, 8])
def test_each_private_class_starts_as_a_public_class_of_its_own(num_public):
    chosen = chosen_classes(*started(5, num_public))
    assert len(set(chosen)) == 5


def test_with_too_few_public_classes_each_is_used_about_equally():
    chosen = chosen_classes(*started(5, 2))
    assert sorted(np.bincount(chosen).tolist()) == [2, 3]


def test_a_label_map_decides_the_start_one_to_one():
    chosen = chosen_classes(*started(3, 5, label_map={4: 0, 2: 1, 0: 2}))
    assert chosen == [4, 2, 0]


def test_votes_decide_the_start_by_the_largest_total_weight():
    """Against brute force: of all one-to-one choices the heaviest is taken, not each class's own favourite."""
    shares = np.random.default_rng(4).dirichlet(np.ones(5), size=4)
    shares[1] = 0.9 * shares[0] + 0.1 * shares[1]
    best = max(itertools.permutations(range(5), 4), key=lambda p: sum(shares[i, j] for i, j in enumerate(p)))
    assert chosen_classes(*started(4, 5, class_init="votes", class_shares=shares)) == list(best)
    assert len(set(best)) == 4
    assert list(best) != shares.argmax(1).tolist()


def test_zero_starts_all_classes_equal():
    state, _ = started(3, 5, class_init="zero")
    assert (state[CLASS_WEIGHT] == 0).all()


def test_without_public_classes_private_ones_start_apart_and_seeded():
    tables = [started(3, 0, seed=seed)[0][CLASS_WEIGHT] for seed in (0, 0, 1)]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
    assert torch.linalg.matrix_rank(tables[0]) == 3


def test_an_unconditional_private_model_takes_the_public_weights():
    state, public = started(0, 5)
    assert CLASS_WEIGHT not in state
    assert all(torch.equal(state[name], public[name]) for name in state)


def test_the_public_weights_are_not_shared_with_the_private_model():
    private, public = build(3, 1), build(3, 2)
    before = {n: t.clone() for n, t in public.state_dict().items()}
    start_private_model(private, public.state_dict(), class_init="distinct", weights=np.zeros((3, 3)), seed=0)
    with torch.no_grad():
        for p in private.parameters():
            p.add_(1)
    assert all(torch.equal(before[n], t) for n, t in public.state_dict().items())
