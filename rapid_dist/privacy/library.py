"""Privacy by hand, for other trainers and for notebooks: the same functions with few arguments, and folders as paths.

Args of all: delta and target_delta lie in (0, 1); sample_rate is the Poisson inclusion probability of a record a step,
above 0 and at most 1; noise_multiplier is the noise standard deviation over the clipping norm.
"""

from __future__ import annotations

import os

from rapid_dist.privacy import ledger as ledgers
from rapid_dist.privacy.accounting import ADD_OR_REMOVE_ONE, check_agreement, compute_epsilon
from rapid_dist.privacy.calibration import calibrate_noise_multiplier
from rapid_dist.privacy.charges import training_charge
from rapid_dist.privacy.ledger import Ledger
from rapid_dist.privacy.plan import PrivacyPlan, calibrated_plan
from rapid_dist.storage.store import Store

Location = str | os.PathLike[str] | Store


def calibrate(
    *,
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    neighboring_relation: str = ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the smallest noise multiplier with which DP-SGD stays within a budget, rounded up to 4 decimals.

    Args:
        target_epsilon: The epsilon not to exceed, by PLD.
        delta: The delta that it is stated at.
        sample_rate: Probability with which each record joins a step.
        steps: Number of steps.
        neighboring_relation: add_or_remove_one, or replace_one.

    Raises:
        SpecError: A value is outside its range.
    """
    return calibrate_noise_multiplier(
        target_epsilon=target_epsilon,
        delta=delta,
        sample_rate=sample_rate,
        num_steps=steps,
        neighboring_relation=neighboring_relation,
    )


def epsilon(
    *,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    neighboring_relation: str = ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the epsilon of DP-SGD by PLD, after PRV and RDP agreed; compute_epsilon gives all three.

    Args:
        noise_multiplier: Noise standard deviation over the clipping norm.
        sample_rate: Probability with which each record joins a step.
        steps: Number of steps.
        delta: The delta that epsilon is stated at.
        neighboring_relation: add_or_remove_one, or replace_one, which PLD counts alone.

    Raises:
        SpecError: A value is outside its range.
        PrivacyError: The accountants disagree, or no finite epsilon holds.
    """
    charge = training_charge(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=steps)
    result = compute_epsilon((charge,), delta=delta, neighboring_relation=neighboring_relation)
    check_agreement(result)
    return result.pld


def make_plan(
    *,
    target_epsilon: float,
    target_delta: float,
    sample_rate: float,
    expected_batch_size: float,
    steps: int,
    max_grad_norm: float = 1.0,
    noise_multiplier: float | None = None,
    spare_steps: int = 0,
    unit: str = "example",
) -> PrivacyPlan:
    """Returns the plan of a training: what it may cost, and all that a private step needs.

    Args:
        target_epsilon: The epsilon that steps and spare steps together may cost.
        target_delta: The delta that it is stated at.
        sample_rate: Probability with which each record joins a step.
        expected_batch_size: What noised sums are divided by: a public constant, never a count of the records.
        steps: Number of steps.
        max_grad_norm: The L2 norm that each record's gradient is clipped to.
        noise_multiplier: None has the least that fits calibrated.
        spare_steps: Steps paid for beforehand that restarts may lose.
        unit: What one person contributes, in words.

    Raises:
        SpecError: The noise given is too little for the target, or a value is outside its range.
    """
    return calibrated_plan(
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        neighboring_relation=ADD_OR_REMOVE_ONE,
        unit=unit,
        sample_rate=sample_rate,
        expected_batch_size=expected_batch_size,
        max_grad_norm=max_grad_norm,
        noise_multiplier=noise_multiplier,
        steps=steps,
        spare_steps=spare_steps,
        votes_noise_multiplier=None,
    )


def open_ledger(
    folder: Location,
    *,
    target_epsilon: float,
    target_delta: float,
    unit: str = "example",
    must_contain: str | None = None,
) -> Ledger:
    """Creates the ledger of a dataset in a folder with this budget, or opens it and verifies its chain.

    Args:
        folder: Folder or s3:// prefix of the ledger.
        target_epsilon: What all uses of the dataset together may cost.
        target_delta: The delta that it is stated at.
        unit: What one person contributes, in words.
        must_contain: A Ledger.head seen earlier; a folder cut back behind it is refused.

    Raises:
        PrivacyError: The folder was opened with another budget, or an entry is missing or altered.
    """
    return ledgers.open_ledger(
        _store(folder),
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        unit=unit,
        must_contain=must_contain,
    )


def join_ledger(folder: Location, *, target_epsilon: float, target_delta: float, unit: str = "example") -> Ledger:
    """Opens the ledger of a dataset for one more job; a folder without one gets the job's own target as its budget.

    Args:
        folder: Folder or s3:// prefix of the ledger.
        target_epsilon: What the job may cost; the budget of a ledger that is there already stays.
        target_delta: The delta that it is stated at.
        unit: What one person contributes, in words.

    Raises:
        PrivacyError: The ledger counts another unit, or an entry is missing or altered.
    """
    return ledgers.join_ledger(_store(folder), target_epsilon=target_epsilon, target_delta=target_delta, unit=unit)


def read_ledger(folder: Location, *, must_contain: str | None = None) -> Ledger:
    """Opens the ledger of a dataset to look at it; it refuses to be charged.

    Args:
        folder: Folder or s3:// prefix of the ledger.
        must_contain: A Ledger.head seen earlier; a folder cut back behind it is refused.

    Raises:
        PrivacyError: There is no ledger, or an entry is missing or altered.
    """
    return ledgers.read_ledger(_store(folder), must_contain=must_contain)


def _store(folder: Location) -> Store:
    return folder if isinstance(folder, Store) else Store(folder)
