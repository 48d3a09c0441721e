"""The release of class statistics: its sensitivity, what is fitted to it, and that wrong ones would be seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapid_dist.errors import InputError, SpecError
from rapid_dist.privacy.statistics import (
    StatisticsTerms,
    affordable_halvings,
    clip_rows,
    fit_gaussians,
    statistics_charge,
    sum_statistics,
)

TERMS = StatisticsTerms(num_classes=3, dim=4, clip_norm=2.0)


def test_the_sum_is_that_of_each_records_vector():
    rng = np.random.default_rng(0)
    vectors, label = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    a, b, c = TERMS.weights
    expected = np.zeros((3, TERMS.size))
    for z, k in zip(clip_rows(vectors, 2.0), label, strict=True):
        outer = np.outer(z, z)
        upper = [outer[i, j] * (1 if i == j else 2**0.5) for i in range(4) for j in range(i, 4)]
        expected[k] += np.concatenate([[a], b * z, c * np.array(upper)])
    np.testing.assert_allclose(sum_statistics(vectors, label, TERMS), expected, rtol=1e-12)


@given(
    st.lists(st.floats(width=64, allow_nan=True, allow_infinity=True), min_size=4, max_size=4),
    st.sampled_from([0, 1, 2]),
    st.floats(1e-3, 1e3),
    st.integers(0, 3),
)
def test_a_record_moves_the_sum_by_at_most_one_whatever_it_holds(values, label, clip_norm, halvings):
    terms = StatisticsTerms(num_classes=3, dim=4, clip_norm=clip_norm, halvings=halvings)
    others, labels = np.random.default_rng(1).normal(size=(20, 4)) * clip_norm, np.arange(20) % 3
    before = sum_statistics(others, labels, terms)
    after = sum_statistics(np.vstack([others, values]), np.append(labels, label), terms)
    assert np.linalg.norm(after - before) <= 1


def test_the_largest_record_comes_close_to_the_bound():
    sums = sum_statistics(np.full((1, 4), 1e9), np.array([0]), TERMS)
    assert 0.9999 < np.linalg.norm(sums) <= 1


def test_a_class_is_parted_at_the_signs_of_its_leading_coordinates():
    terms = StatisticsTerms(num_classes=2, dim=3, clip_norm=9.0, halvings=2)
    vectors = np.array([[-1.0, -1, 5], [1, -1, 5], [-1, 1, 5], [1, 1, 5], [1, 1, -5], [np.nan, 1, 0]])
    sums = sum_statistics(vectors, np.array([0, 0, 0, 0, 1, 1]), terms)
    np.testing.assert_allclose(sums[:, 0] / terms.weights[0], [1, 1, 1, 1, 0, 0, 1, 1])
    np.testing.assert_allclose(sums[3, 1:4] / terms.weights[1], [1, 1, 5])


def test_parts_give_a_class_of_two_clouds_back():
    rng = np.random.default_rng(9)
    side = rng.random(20_000) < 0.25
    vectors = rng.normal(size=(20_000, 3)) * 0.2 + np.where(side, 1.5, -1.5)[:, None]
    terms = StatisticsTerms(num_classes=1, dim=3, clip_norm=4.0, halvings=1)
    sums = sum_statistics(vectors, np.zeros(20_000, int), terms)
    fitted = fit_gaussians(sums + rng.normal(size=sums.shape), terms, noise_multiplier=1.0)
    drawn = fitted.draw(np.zeros(4000, int), rng.random(4000), rng.normal(size=(4000, 3)))
    assert (drawn[:, 0] > 0).mean() == pytest.approx(0.25, abs=0.03)
    assert np.abs(np.abs(drawn) - 1.5).max() < 1.2  # one Gaussian for both would put draws between them


def test_a_part_that_may_well_be_empty_is_never_drawn_and_an_empty_class_draws_all_alike():
    terms = StatisticsTerms(num_classes=2, dim=2, clip_norm=1.0, halvings=1)
    sums = sum_statistics(np.full((5000, 2), 0.5), np.zeros(5000, int), terms)
    fitted = fit_gaussians(sums + np.random.default_rng(0).normal(size=sums.shape), terms, noise_multiplier=1.0)
    np.testing.assert_array_equal(fitted.share, [[0, 1], [0.5, 0.5]])


def test_more_noise_or_fewer_records_allow_fewer_halvings():
    terms = StatisticsTerms(num_classes=10, dim=48, clip_norm=48**0.5)
    found = [
        affordable_halvings(terms, noise_multiplier=z, records_per_class=n)
        for z, n in ((0.5, 6000), (3.73, 6000), (16.3, 6000), (0.5, 130), (1e-9, 6000))
    ]
    assert found == [4, 1, 0, 0, 6]


def test_a_record_without_a_class_adds_nothing():
    assert not sum_statistics(np.ones((2, 4)), np.array([-1, 3]), TERMS).any()


def test_parts_add_up():
    rng = np.random.default_rng(2)
    vectors, label = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    parts = sum(sum_statistics(vectors[i::3], label[i::3], TERMS) for i in range(3))
    np.testing.assert_allclose(parts, sum_statistics(vectors, label, TERMS), rtol=1e-12)


def test_without_noise_the_gaussians_have_the_moments_of_the_records():
    rng = np.random.default_rng(3)
    vectors, label = rng.normal(size=(3000, 4)) * 0.3 + 0.2, np.arange(3000) % 3
    fitted = fit_gaussians(sum_statistics(vectors, label, TERMS), TERMS, noise_multiplier=1e-9)
    for c in range(3):
        mine = vectors[label == c]
        np.testing.assert_allclose(fitted.count[c], len(mine), rtol=1e-6)
        np.testing.assert_allclose(fitted.mean[c], mine.mean(0), atol=1e-6)
        np.testing.assert_allclose(fitted.factor[c] @ fitted.factor[c].T, np.cov(mine.T, bias=True), atol=1e-6)


def test_noise_alone_makes_almost_no_direction_stand_out():
    rng = np.random.default_rng(4)
    terms = StatisticsTerms(num_classes=40, dim=30, clip_norm=5.0)
    noisy = rng.normal(size=(40, terms.size))
    noisy[:, 0] += terms.weights[0] * 1000
    noisy[:, 1:31] = 0
    assert _standing_out(fit_gaussians(noisy, terms, noise_multiplier=1.0)).mean() < 1.5
    # Half the noise that is there would be taken for structure.
    assert _standing_out(fit_gaussians(noisy, terms, noise_multiplier=0.5)).mean() > 5


def _standing_out(fitted):
    """How many directions of each class have more variance than its least one, (classes,)."""
    variance = np.square(np.linalg.norm(fitted.factor, axis=1))
    return (variance > variance.min(axis=1, keepdims=True) * 1.001 + 1e-12).sum(1)


def test_what_noise_hides_shares_evenly_what_the_rest_leaves_of_the_variance():
    rng = np.random.default_rng(7)
    terms = StatisticsTerms(num_classes=1, dim=20, clip_norm=20.0)
    true = np.concatenate([[9.0, 4.0], np.full(18, 0.25)])
    sums = sum_statistics(rng.normal(size=(40_000, 20)) * np.sqrt(true), np.zeros(40_000, int), terms)
    fitted = fit_gaussians(sums + rng.normal(size=sums.shape) * 10, terms, noise_multiplier=10.0)
    covariance = fitted.factor[0] @ fitted.factor[0].T
    variance = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    assert np.trace(covariance) == pytest.approx(true.sum(), rel=0.1)
    np.testing.assert_allclose(variance[:2], true[:2], rtol=0.25)
    # A direction or two of the others pass the edge by their own variance.
    assert np.isclose(variance[2:], variance[-1], rtol=1e-6).sum() >= 15


def test_an_empty_class_gives_finite_draws_within_the_clip_norm():
    rng = np.random.default_rng(5)
    fitted = fit_gaussians(rng.normal(size=(3, TERMS.size)) * 5, TERMS, noise_multiplier=5.0)
    drawn = fitted.draw(np.arange(300) % 3, rng.random(300), rng.normal(size=(300, 4)))
    assert np.isfinite(drawn).all()
    assert np.linalg.norm(drawn, axis=1).max() <= 2.0 * (1 + 1e-12)


def test_a_spread_moves_draws_away_from_their_mean_and_the_clip_with_them():
    sums = sum_statistics(np.random.default_rng(8).normal(size=(90, 4)), np.arange(90) % 3, TERMS)
    one, wide = (fit_gaussians(sums, TERMS, noise_multiplier=0.1, spread=s) for s in (1.0, 1.5))
    np.testing.assert_allclose(wide.factor, 1.5 * one.factor)
    np.testing.assert_allclose(wide.mean, one.mean)
    assert (one.clip_norm, wide.clip_norm) == (2.0, 3.0)
    assert fit_gaussians(sums, TERMS, noise_multiplier=0.1, spread=0.5).clip_norm == 2.0


def test_a_draw_depends_on_its_own_row_alone():
    rng = np.random.default_rng(6)
    fitted = fit_gaussians(
        sum_statistics(rng.normal(size=(90, 4)), np.arange(90) % 3, TERMS), TERMS, noise_multiplier=1
    )
    rows = np.arange(9) % 3, rng.random(9), rng.normal(size=(9, 4))
    np.testing.assert_array_equal(fitted.draw(*rows)[4], fitted.draw(*(r[4:5] for r in rows))[0])


def test_wrong_shapes_and_terms_are_refused():
    with pytest.raises(InputError, match="expected"):
        sum_statistics(np.ones((2, 5)), np.zeros(2), TERMS)
    for wrong in ({"dim": 0}, {"clip_norm": 0}, {"mean_share": 0.99}, {"count_share": 0}):
        with pytest.raises(SpecError):
            StatisticsTerms(**{"num_classes": 3, "dim": 4, "clip_norm": 1.0, **wrong})


def test_the_charge_is_one_gaussian_on_all_records():
    charge = statistics_charge(3.5)
    assert (charge.mechanism, charge.sample_rate, charge.num_steps, charge.noise_multiplier) == ("gaussian", 1, 1, 3.5)
