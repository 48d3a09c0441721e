"""Leaving out private records that are already public: their pixels need no protection and no budget."""

from __future__ import annotations

import dataclasses

import numpy as np

from rapid_dist.ingest.decode import DecodedUnit
from rapid_dist.seeding import content_digests


def pixel_digests(image: np.ndarray) -> np.ndarray:
    """128-bit BLAKE2b of each image's shape and pixels (RFC 7693).

    image: (N, C, H, W) uint8. Returns (N, 2) uint64.
    """
    if image.dtype != np.uint8 or image.ndim != 4:
        raise TypeError(f"got {image.dtype} of shape {image.shape}; expected (N, C, H, W) uint8")
    return content_digests(image)


def sorted_digests(digests: np.ndarray) -> np.ndarray:
    """The distinct digests in the order that drop_equal searches; sort once, then use for every unit.

    digests: (M, 2) uint64. Returns (K, 2) uint64, K <= M.
    """
    return np.unique(_as_keys(digests)).view(np.uint64).reshape(-1, 2)


def drop_equal(decoded: DecodedUnit, public_digests: np.ndarray) -> tuple[DecodedUnit, int]:
    """The unit without the records whose pixels equal a public image, and how many those were.

    public_digests: (M, 2) uint64 from pixel_digests over the public images, decoded with the same settings;
    already in the order of sorted_digests it is not sorted again.

    Guarantee: only private records are dropped, and whether a record is depends on that record and on
    public data alone. Adding or removing one private record so changes the result by that record at most,
    and neighbouring data sets stay neighbours. The count is private: it must not be logged or published.
    """
    public = _as_keys(public_digests)
    if not np.all(public[:-1] <= public[1:]):
        public = np.sort(public)
    private = _as_keys(pixel_digests(decoded.image))
    place = np.searchsorted(public, private)
    is_public = np.zeros(len(private), bool)
    is_inside = place < len(public)
    is_public[is_inside] = public[place[is_inside]] == private[is_inside]
    kept = dataclasses.replace(
        decoded,
        example_id=decoded.example_id[~is_public],
        image=decoded.image[~is_public],
        label=decoded.label[~is_public],
    )
    return kept, int(is_public.sum())


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """(M, 2) uint64 as (M,) 16-byte strings, which numpy orders and searches whole."""
    return np.ascontiguousarray(digests).view("S16").reshape(-1)
