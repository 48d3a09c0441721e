import numpy as np
import pytest

from rapid_dist.errors import InputError
from rapid_dist.evaluation.likeness import (
    FeatureExtractor,
    frechet_distance,
    measure_likeness,
    precision_recall_density_coverage,
)


def draw_gaussian_exactly(num, mean, stddev, rng):
    """Samples whose empirical mean and (n - 1) covariance are exactly mean and diag(stddev^2)."""
    mean, stddev = np.asarray(mean, float), np.asarray(stddev, float)
    x = rng.standard_normal((num, len(mean)))
    x -= x.mean(axis=0)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ whitening * stddev + mean


def test_frechet_distance_equals_the_closed_form_of_diagonal_gaussians():
    rng = np.random.default_rng(0)
    mean_1, mean_2, stddev_1, stddev_2 = [0, 1, 2], [1, 1, 0], [1, 2, 0.5], [3, 2, 1]
    expected = np.sum(np.subtract(mean_1, mean_2) ** 2.0) + np.sum(np.subtract(stddev_1, stddev_2) ** 2)
    real = draw_gaussian_exactly(50, mean_1, stddev_1, rng)
    synthetic = draw_gaussian_exactly(80, mean_2, stddev_2, rng)
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_is_symmetric_and_unmoved_by_rotation_and_a_far_shift():
    rng = np.random.default_rng(1)
    real, synthetic = rng.standard_normal((40, 4)), 2 * rng.standard_normal((60, 4)) + 1
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    expected = frechet_distance(real, synthetic)
    assert frechet_distance(synthetic, real) == pytest.approx(expected, rel=1e-9)
    moved = frechet_distance(real @ rotation + 1e6, synthetic @ rotation + 1e6)
    assert moved == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_zero_even_with_fewer_examples_than_dimensions():
    features = np.random.default_rng(2).standard_normal((5, 8)).astype(np.float32)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)


def test_all_five_are_the_numbers_of_torchmetrics_1_9_and_prdc_0_2():
    rng = np.random.default_rng(7)
    real, synthetic = rng.standard_normal((120, 6)), 1.5 * rng.standard_normal((150, 6)) + 0.4
    assert frechet_distance(real, synthetic) == pytest.approx(4.186657773342002, rel=1e-12)
    shares = precision_recall_density_coverage(real, synthetic)
    expected = {"precision": 0.5083333333333333, "recall": 1.0, "density": 0.235, "coverage": 0.5833333333333334}
    assert shares == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("nearest_k", [1, 3])
def test_shares_are_those_counted_pair_by_pair(nearest_k):
    """Oracle: the definitions of Kynkaanniemi et al. 2019 and Naeem et al. 2020 in loops."""
    rng = np.random.default_rng(8)
    real, synthetic = rng.standard_normal((40, 3)), 1.3 * rng.standard_normal((40, 3)) + 0.5

    def radius(i, own):
        return sorted(np.linalg.norm(own[i] - x) for j, x in enumerate(own) if j != i)[nearest_k - 1]

    def balls(of, others):
        return np.array([[np.linalg.norm(c - x) < radius(i, of) for x in others] for i, c in enumerate(of)])

    in_real, in_synthetic = balls(real, synthetic), balls(synthetic, real)
    assert precision_recall_density_coverage(real, synthetic, nearest_k=nearest_k) == pytest.approx(
        {
            "precision": in_real.any(axis=0).mean(),
            "recall": in_synthetic.any(axis=0).mean(),
            "density": in_real.sum() / (nearest_k * 40),
            "coverage": in_real.any(axis=1).mean(),
        }
    )


def test_precision_and_recall_tell_a_narrow_copy_from_a_broad_one():
    rng = np.random.default_rng(3)
    real = rng.standard_normal((200, 2))
    narrow = precision_recall_density_coverage(real, 0.2 * rng.standard_normal((200, 2)))
    broad = precision_recall_density_coverage(real, 5 * rng.standard_normal((200, 2)))
    assert narrow["precision"] > 0.95
    assert narrow["recall"] < 0.3
    assert broad["precision"] < 0.5
    assert broad["recall"] > 0.95


def test_disjoint_sets_share_nothing_and_equal_sets_share_everything():
    real = np.random.default_rng(4).standard_normal((50, 3))
    far = precision_recall_density_coverage(real, real + 1000)
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    same = precision_recall_density_coverage(real, real)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)


def test_subsampling_follows_the_seed():
    rng = np.random.default_rng(5)
    real, synthetic = rng.standard_normal((100, 2)), rng.standard_normal((80, 2)) + 1
    first, same, other = (
        precision_recall_density_coverage(real, synthetic, max_examples=30, seed=seed) for seed in (1, 1, 2)
    )
    assert first == same != other


def test_too_few_examples_or_other_dimensions_are_refused():
    with pytest.raises(InputError, match="nearest_k"):
        precision_recall_density_coverage(np.zeros((6, 2)), np.zeros((6, 2)), nearest_k=5)
    with pytest.raises(InputError, match="one extractor"):
        frechet_distance(np.zeros((6, 2)), np.zeros((6, 3)))


def test_measured_likeness_names_the_extractor_and_the_counts():
    extractor = FeatureExtractor(
        name="means", digest="d", num_features=3, forward_fn=lambda x: x.float().mean(dim=(2, 3))
    )
    rng = np.random.default_rng(6)
    real, synthetic = (rng.integers(0, 256, (num, 3, 8, 8), dtype=np.uint8) for num in (30, 20))
    result = measure_likeness(real, synthetic, extractor)
    assert (result.feature_name, result.feature_digest) == ("means", "d")
    assert (result.num_real, result.num_synthetic) == (30, 20)
    assert result.fid == frechet_distance(extractor.extract(real), extractor.extract(synthetic))
