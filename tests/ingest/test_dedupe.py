"""Public duplicates: exactly the equal ones go, and each record's fate is its own."""

import hashlib
import struct

import numpy as np
import pytest

from rapid_dist.ingest.dataset import drop_equal, pixel_digests, sorted_digests
from rapid_dist.ingest.decode import DecodedUnit


def unit_of(image):
    ids = np.arange(len(image), dtype=np.int64) * 10
    return DecodedUnit(example_id=ids, image=image, label=ids.astype(np.int32) % 7, corrupt=("c",))


def random_images(num_images, seed):
    return np.random.default_rng(seed).integers(0, 256, (num_images, 1, 8, 8), dtype=np.uint8)


def test_a_digest_is_blake2b_of_shape_and_pixels():
    image = random_images(1, 0)
    expected = hashlib.blake2b(struct.pack("<3q", 1, 8, 8) + image.tobytes(), digest_size=16).digest()
    assert pixel_digests(image).astype("<u8").tobytes() == expected


def test_digests_depend_on_shape_and_on_every_pixel():
    zeros = np.zeros((1, 4, 8, 8), np.uint8)
    changed = zeros.copy()
    changed[0, 3, 7, 7] = 1
    images = [zeros, zeros.reshape(1, 1, 16, 16), changed]
    assert len({pixel_digests(image).tobytes() for image in images}) == 3


def test_digests_do_not_depend_on_memory_order():
    image = random_images(3, 0)
    np.testing.assert_array_equal(pixel_digests(np.asfortranarray(image)), pixel_digests(image))


def test_digests_of_no_images_are_empty_and_of_floats_refused():
    assert pixel_digests(np.zeros((0, 1, 8, 8), np.uint8)).shape == (0, 2)
    with pytest.raises(TypeError, match=r"expected \(N, C, H, W\) uint8"):
        pixel_digests(np.zeros((1, 1, 8, 8)))


@pytest.mark.parametrize("sort", [False, True])
def test_exactly_the_equal_records_are_dropped_as_brute_force_says(sort):
    private, public = random_images(30, 1), random_images(40, 2)
    public[[3, 5, 39]] = private[[7, 0, 29]]
    private[8] = private[7]
    digests = pixel_digests(public)
    kept, num_dropped = drop_equal(unit_of(private), sorted_digests(digests) if sort else digests)
    is_equal = (private[:, None] == public[None]).all(axis=(2, 3, 4)).any(axis=1)
    assert num_dropped == is_equal.sum() == 4
    np.testing.assert_array_equal(kept.image, private[~is_equal])
    np.testing.assert_array_equal(kept.example_id, np.flatnonzero(~is_equal) * 10)
    np.testing.assert_array_equal(kept.label, kept.example_id % 7)
    assert kept.corrupt == ("c",)


def test_a_record_is_kept_or_dropped_whatever_the_other_private_records_are():
    private, public = random_images(12, 3), random_images(5, 4)
    public[2] = private[4]
    digests = pixel_digests(public)
    together = set(drop_equal(unit_of(private), digests)[0].example_id.tolist())
    for left_out in range(12):
        rest = unit_of(private)
        mask = np.arange(12) != left_out
        rest = DecodedUnit(example_id=rest.example_id[mask], image=rest.image[mask], label=rest.label[mask], corrupt=())
        assert set(drop_equal(rest, digests)[0].example_id.tolist()) == together - {left_out * 10}


def test_private_duplicates_of_each_other_all_stay():
    four_equal = unit_of(np.repeat(random_images(1, 5), 4, axis=0))
    kept, num_dropped = drop_equal(four_equal, pixel_digests(random_images(3, 6)))
    assert len(kept.image) == 4
    assert num_dropped == 0


def test_nothing_public_drops_nothing():
    kept, num_dropped = drop_equal(unit_of(random_images(3, 7)), np.zeros((0, 2), np.uint64))
    assert len(kept.image) == 3
    assert num_dropped == 0


def test_sorted_digests_are_distinct_and_searched_whole_even_with_zero_bytes():
    digests = np.array([[1, 0], [0, 1], [1, 0], [0, 0], [256, 0]], np.uint64)
    result = sorted_digests(digests)
    assert {tuple(row) for row in result.tolist()} == {(1, 0), (0, 1), (0, 0), (256, 0)}
    assert len(result) == 4
    np.testing.assert_array_equal(sorted_digests(result), result)
