import numpy as np
import pytest
from scipy.spatial.distance import cdist

from rapid_dist.errors import InputError
from rapid_dist.evaluation.copies import check_copies, count_identical, nearest_distances


def draw_images(num, seed, channels=1, size=8):
    return np.random.default_rng(seed).integers(0, 256, (num, channels, size, size), dtype=np.uint8)


def test_nearest_distances_equal_brute_force_in_any_chunking():
    samples, references = draw_images(23, 0, channels=3), draw_images(31, 1, channels=3)
    oracle = cdist(samples.reshape(23, -1) / 255, references.reshape(31, -1) / 255).min(axis=1)
    for chunk_size in (1, 7, 100):
        np.testing.assert_allclose(nearest_distances(samples, references, chunk_size=chunk_size), oracle, rtol=1e-12)


def test_one_grey_level_in_one_pixel_of_a_bright_image_is_seen():
    reference = np.full((1, 3, 64, 64), 255, np.uint8)
    sample = reference.copy()
    sample[0, 0, 0, 0] = 254
    assert nearest_distances(reference, reference)[0] == 0
    assert nearest_distances(sample, reference)[0] == pytest.approx(1 / 255, rel=1e-15)


def test_copies_of_training_images_are_all_closer_and_counted():
    train, holdout = draw_images(40, 0), draw_images(40, 1)
    result = check_copies(train[:30], train, holdout, seed=0)
    assert (result.share_closer_to_train, result.num_identical, result.num_samples) == (1.0, 30, 30)
    assert result.median_distance_train == 0 < result.median_distance_holdout
    assert result.interval_high == 1.0


def test_independent_samples_are_closer_about_half_of_the_time():
    result = check_copies(draw_images(400, 0), draw_images(150, 1), draw_images(150, 2), seed=0)
    assert result.interval_low - 0.1 < 0.5 < result.interval_high + 0.1
    assert result.num_identical == 0


def test_a_larger_training_set_is_cut_to_the_held_out_size_or_it_would_look_closer():
    samples, train, holdout = draw_images(300, 0, size=2), draw_images(2000, 1, size=2), draw_images(50, 2, size=2)
    result = check_copies(samples, train, holdout, seed=0)
    assert result.num_references == 50
    assert abs(result.share_closer_to_train - 0.5) < 0.2
    uncut = np.mean(nearest_distances(samples, train) < nearest_distances(samples, holdout))
    assert uncut > 0.85


def test_a_copy_of_a_training_image_left_out_of_the_cut_is_still_counted():
    train, holdout = draw_images(200, 0), draw_images(2, 1)
    assert check_copies(train, train, holdout, seed=0).num_identical == 200


def test_ties_count_half():
    references = draw_images(10, 0)
    result = check_copies(draw_images(20, 1), references, references, seed=0)
    assert result.share_closer_to_train == 0.5


def test_swapping_training_and_held_out_mirrors_the_share():
    samples, a, b = draw_images(50, 0), draw_images(30, 1), draw_images(30, 2)
    forward, backward = check_copies(samples, a, b, seed=0), check_copies(samples, b, a, seed=0)
    assert forward.share_closer_to_train == pytest.approx(1 - backward.share_closer_to_train)


def test_identical_counts_samples_not_pairs():
    reference = draw_images(1, 0)
    assert count_identical(np.concatenate([reference, reference, reference ^ 1]), np.repeat(reference, 3, 0)) == 2


def test_other_image_shapes_are_refused():
    with pytest.raises(InputError, match="one shape"):
        check_copies(draw_images(2, 0), draw_images(2, 1), draw_images(2, 2, size=9), seed=0)
