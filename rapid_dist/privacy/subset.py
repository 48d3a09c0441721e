"""The secret Poisson subset of a data set, which one bounded charge pays for before it is drawn."""

from __future__ import annotations

import numpy as np

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.bounded import SubsetCharge
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.paid import PaidSteps


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
