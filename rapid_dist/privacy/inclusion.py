"""The secret Poisson subset of a data set, which one bounded charge pays for before it is drawn."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from rapid_dist.errors import InputError, PrivacyError, SpecError
from rapid_dist.privacy.charges import SubsetCharge
from rapid_dist.privacy.keyed import RunKey, uniform_uint64
from rapid_dist.privacy.ledger import PaidSteps

ROLE = "inclusion"
_WINDOW = 2**16


def draw_inclusion(key: RunKey, *, attempt: int, step: int, example_ids: np.ndarray, sample_rate: float) -> np.ndarray:
    """Whether each record is in the batch of this step.

    Record i is in if word i of the stream (inclusion, attempt, step) is below floor(sample_rate * 2^64).
    example_ids: (n,) int64, not negative, in any order, any subset of the data. Returns (n,) bool.
    Guarantee: over all records and steps of an attempt the answers are independent, each true with
    probability sample_rate rounded down to a multiple of 2^-64 (never more); an answer depends on key,
    attempt, step and id alone, so not on workers, shards, batching or the other records.
    Raises PrivacyError when an id appears twice: its record would count twice in the sum.
    """
    threshold = _threshold(sample_rate)
    ids = np.asarray(example_ids)
    if ids.ndim != 1 or ids.dtype != np.int64:
        raise InputError(f"example_ids are {ids.dtype} of shape {ids.shape}; expected int64 of shape (n,)")
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    if ids.size and ordered[0] < 0:
        raise InputError(f"example id {ordered[0]} is negative; expected ids of at least 0")
    if np.any(ordered[1:] == ordered[:-1]):
        raise PrivacyError("an example id appears twice; every private record needs its own id")
    if threshold == 2**64:
        return np.ones(ids.shape, dtype=bool)
    is_in = np.empty(ids.shape, dtype=bool)
    limit = np.uint64(threshold)
    for first, last in _windows(ordered):
        start = int(ordered[first])
        words = uniform_uint64(key, ROLE, attempt, step, start, int(ordered[last - 1]) - start + 1)
        is_in[order[first:last]] = words[ordered[first:last] - start] < limit
    return is_in


def _threshold(sample_rate: float) -> int:
    """floor(sample_rate * 2^64), exact; a float product would round."""
    is_number = isinstance(sample_rate, (int, float)) and not isinstance(sample_rate, bool)
    if not is_number or not 0 < sample_rate <= 1:
        raise SpecError(f"sample_rate is {sample_rate!r}; expected more than 0 and at most 1")
    return math.floor(Fraction(sample_rate) * 2**64)


def _windows(ordered: np.ndarray) -> list[tuple[int, int]]:
    """Runs of sorted ids that share a window of 2^16 ids, as (first, last + 1) positions.

    At most 2^16 words are drawn at a time, however far apart the ids are.
    """
    if not ordered.size:
        return []
    windows = ordered // _WINDOW
    starts = np.flatnonzero(np.r_[True, windows[1:] != windows[:-1]])
    return list(zip(starts.tolist(), [*starts[1:].tolist(), ordered.size], strict=True))


def subset_mask(key: RunKey, example_ids: np.ndarray, *, paid: PaidSteps) -> np.ndarray:
    """Whether each record is in the subset, (n,) bool, with the probability that the receipt states.

    key: fresh, used for one subset and then forgotten. example_ids: (n,) int64, any part of the data.
    Guarantee: records are in or out independently, as functions of key and id alone; so whatever then runs on the
    subset within the receipt's (epsilon, delta) has its amplified cost on the whole.
    Raises PrivacyError when the receipt is not for a subset.
    """
    charge = paid.charge
    if not isinstance(charge, SubsetCharge):
        raise PrivacyError(f"the receipt pays for {charge.purpose!r}, not for a secret subset")
    return draw_inclusion(key, attempt=paid.attempt, step=0, example_ids=example_ids, sample_rate=charge.subset_rate)
