"""A private count of class votes: histogram of one vote per record, plus Gaussian noise."""

from __future__ import annotations

import numpy as np

from rapid_dist.errors import InputError, SpecError
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import PaidSteps
from rapid_dist.privacy.noise import add_noise_on_grid, draw_gaussian, grid_for

ROLE = "histogram"
_SENSITIVITY = 1.0


def histogram_charge(noise_multiplier: float, *, purpose: str = "noisy class votes") -> Charge:
    """What one noisy histogram costs: the Gaussian mechanism once, on all records."""
    return Charge(
        mechanism="gaussian",
        noise_multiplier=noise_multiplier,
        sample_rate=1.0,
        num_steps=1,
        purpose=purpose,
    )


def count_votes(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How many records voted for each cell; rows and columns: (n,) integers, one pair a record.

    Returns shape int64. Counts of disjoint sets of records add up. shape is a public constant: taking it
    from the data would tell which classes occur. The counts are private.
    Raises InputError when a vote is outside shape.
    """
    rows, columns = np.asarray(rows), np.asarray(columns)
    for name, values, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise InputError(f"{name} are {values.dtype} of shape {values.shape}; expected integers (n,)")
        if values.size and (values.min() < 0 or values.max() >= size):
            raise InputError(f"a vote lies outside the public shape {shape}; check {name} or the shape")
    if rows.shape != columns.shape:
        raise InputError(f"got {rows.size} rows and {columns.size} columns; expected one pair a record")
    cells = rows.astype(np.int64) * shape[1] + columns
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


def noise_histogram(total_counts: np.ndarray, *, key: RunKey, paid: PaidSteps) -> np.ndarray:
    """total_counts + N(0, noise_multiplier^2), rounded to a fixed grid; (r, c) float64, may be negative.

    total_counts: (r, c), the counts of all records together; noise goes on once, after every sum. The
    noise level is read from the receipt, so what is paid and what is drawn agree.
    Guarantee: if each record voted at most once, the result is one use of the Gaussian mechanism with
    sensitivity 1 under add-or-remove-one adjacency: such a record moves one count by 1. The result is public
    within the budget.
    """
    charge = paid.charge
    if not isinstance(charge, Charge) or charge.mechanism != "gaussian" or charge.num_steps != 1:
        raise SpecError(f"got a charge of {charge.num_steps} x {charge.mechanism}; expected histogram_charge()")
    counts = np.array(total_counts, dtype=np.float64)
    noise = draw_gaussian(
        key,
        role=f"{ROLE}/{charge.purpose}",
        attempt=paid.attempt,
        step=paid.first_step,
        first_coordinate=0,
        num_coordinates=counts.size,
        stddev=charge.noise_multiplier * _SENSITIVITY,
    )
    return add_noise_on_grid(counts, noise.reshape(counts.shape), grid_for(_SENSITIVITY)).numpy()


def vote_shares(noisy_votes: np.ndarray, noise_multiplier: float) -> np.ndarray:
    """Noisy votes (classes, prototypes) -> shares that sum to 1 in each row; post-processing of the release.

    Counts below two noise standard deviations are taken for noise; a class with none left is uniform.
    """
    kept = np.where(noisy_votes > 2 * noise_multiplier, noisy_votes, 0.0)
    totals = kept.sum(1, keepdims=True)
    uniform = np.full_like(kept, 1 / kept.shape[1])
    return np.where(totals > 0, kept / np.where(totals > 0, totals, 1), uniform)
