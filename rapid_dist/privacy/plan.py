"""One object joins rate, clip, noise, normaliser, steps and the accounting events, so that they cannot drift apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.accounting import EpsilonResult, check_agreement, compute_epsilon
from rapid_dist.privacy.calibration import Budget, calibrate_noise_multiplier
from rapid_dist.privacy.charges import Charge, training_charge
from rapid_dist.privacy.clipping import AUTO, LossFn, Tensors, clipped_gradient_sum
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import PaidSteps
from rapid_dist.privacy.noise import add_noise_on_grid, draw_gaussian, grid_for
from rapid_dist.privacy.release import histogram_charge
from rapid_dist.privacy.statistics import statistics_charge


class Summing(Protocol):
    """The workers of a step: which one this is, how many there are, and their elementwise sum."""

    rank: int
    world_size: int

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over all workers; every worker gets the same tensor."""


class OneWorker:
    """The group of one process: what it has is the sum over all workers, and what it says is rank 0's word."""

    rank = 0
    world_size = 1
    device = "cpu"

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the tensor itself."""
        return tensor

    def broadcast(self, data: bytes) -> bytes:
        """Returns the bytes themselves."""
        return data


class PrivateStep:
    """One paid step, on one worker. Only PrivacyPlan.private_steps makes one.

    Guarantee: what release returns is one Poisson-subsampled Gaussian mechanism with the charge of the receipt,
    under add-or-remove-one, whatever the number of workers or their parts of the data.
    """

    def __init__(self, plan: PrivacyPlan, key: RunKey, paid: PaidSteps, number: int):
        self._plan, self._key, self._attempt, self.number = plan, key, paid.attempt, number
        self._is_released = False

    def included(self, example_ids: np.ndarray) -> np.ndarray:
        """Which of the records (n,) int64 take part, (n,) bool: Poisson, keyed by record."""
        return draw_inclusion(
            self._key,
            attempt=self._attempt,
            step=self.number,
            example_ids=example_ids,
            sample_rate=self._plan.sample_rate,
        )

    def clipped_sum(
        self,
        loss_fn: LossFn,
        model: torch.nn.Module,
        examples: Tensors,
        *,
        rows_per_example: int = 1,
        max_physical_batch_size: int = 1024,
        engine: str = AUTO,
    ) -> torch.Tensor:
        """This worker's sum of per-example gradients clipped to the plan's norm, (P,) float64; private.

        Arguments as clipped_gradient_sum.
        """
        return clipped_gradient_sum(
            loss_fn,
            model,
            examples,
            max_grad_norm=self._plan.max_grad_norm,
            rows_per_example=rows_per_example,
            max_physical_batch_size=max_physical_batch_size,
            engine=engine,
        )

    def release(self, local_sum: torch.Tensor, workers: Summing) -> torch.Tensor:
        """The released gradient: global clipped sum plus one Gaussian noise, over the public normaliser.

        local_sum: (P,) float64, this worker's clipped sum, overwritten. Returns (P,) float64 in units of
        max_grad_norm, the same on every worker. Each worker adds the noise of its own slice of coordinates to the
        global sum and the slices are then joined, so each coordinate is noised once whatever the number of workers.

        Guarantee: N(0, (noise_multiplier * max_grad_norm)^2) on every coordinate of the global sum, keyed by
        (key, attempt, step, coordinate), rounded to a grid after adding.
        Raises PrivacyError when called again: another sum under the same noise would cancel it.
        """
        if self._is_released:
            raise PrivacyError(f"step {self.number} of attempt {self._attempt} was released; its noise is used up")
        self._is_released = True
        plan = self._plan
        total = workers.sum(local_sum)
        size = len(total)
        start = size * workers.rank // workers.world_size
        stop = size * (workers.rank + 1) // workers.world_size
        noise = draw_gaussian(
            self._key,
            attempt=self._attempt,
            step=self.number,
            first_coordinate=start,
            num_coordinates=stop - start,
            stddev=plan.noise_stddev,
        )
        joined = torch.zeros_like(total)
        noised = add_noise_on_grid(total[start:stop].cpu(), torch.as_tensor(noise), plan.grid)
        joined[start:stop] = noised.to(total.device)
        return workers.sum(joined) / (plan.expected_batch_size * plan.max_grad_norm)


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """The private part of a run, in public constants only; privacy.make_plan and calibrated_plan make one.

    Attributes:
        target_epsilon, target_delta: What votes, steps and spare steps together may cost.
        neighboring_relation: What one person may change.
        unit: What one person contributes, in words.
        sample_rate: Probability with which each record joins a step.
        expected_batch_size: What noised sums are divided by: a public constant, never a count.
        max_grad_norm: The L2 norm that each record's gradient is clipped to.
        noise_multiplier: Noise standard deviation over max_grad_norm; without steps, that of the statistics.
        steps: Training steps; 0 trains nothing.
        spare_steps: Steps paid for beforehand that restarts may lose.
        votes_noise_multiplier: Noise of the votes over one vote; None releases no votes.
        statistics_noise_multiplier: Noise of the class statistics over their sensitivity; None releases none.
        is_private: False with a fixed debugging key.

    Guarantee: a step that this plan makes is one Poisson-subsampled Gaussian mechanism with the charge that
    `training_charge(1)` states, under add-or-remove-one, whatever the number of records or workers.
    """

    target_epsilon: float
    target_delta: float
    neighboring_relation: str
    unit: str
    sample_rate: float
    expected_batch_size: float
    max_grad_norm: float
    noise_multiplier: float
    steps: int
    spare_steps: int
    votes_noise_multiplier: float | None
    statistics_noise_multiplier: float | None = None
    is_private: bool = True

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the one noise on the global sum."""
        return self.noise_multiplier * self.max_grad_norm

    @property
    def grid(self) -> float:
        """The noised sum is rounded to multiples of this."""
        return grid_for(self.max_grad_norm)

    def training_charge(self, num_steps: int) -> Charge:
        return training_charge(
            sample_rate=self.sample_rate, noise_multiplier=self.noise_multiplier, num_steps=num_steps
        )

    def require_key(self, key: RunKey) -> None:
        """Raises PrivacyError when key and plan disagree on whether this is a debugging run."""
        if key.is_private != self.is_private:
            raise PrivacyError("the run key and the plan disagree on whether this is a debugging run; make both anew")

    def private_steps(self, key: RunKey, paid: PaidSteps) -> Iterator[PrivateStep]:
        """The steps that a receipt pays for, in order; the only way to a private step.

        Raises PrivacyError when the receipt is for another mechanism than this plan's, or when key and plan
        disagree on whether this is a debugging run.
        """
        if paid.charge != self.training_charge(paid.charge.num_steps):
            raise PrivacyError(f"the receipt pays for {paid.charge}; the plan's step is {self.training_charge(1)}")
        self.require_key(key)
        return (PrivateStep(self, key, paid, number) for number in paid.steps)

    def votes_charge(self) -> Charge | None:
        return None if self.votes_noise_multiplier is None else histogram_charge(self.votes_noise_multiplier)

    def statistics_charge(self) -> Charge | None:
        """What the release of class statistics costs, None where there is none."""
        noise = self.statistics_noise_multiplier
        return None if noise is None else statistics_charge(noise)

    def ledger_terms(self) -> dict[str, Any]:
        """The plan's target as join_ledger and open_ledger want it."""
        names = ("target_epsilon", "target_delta", "neighboring_relation", "unit")
        return {name: getattr(self, name) for name in names}

    def planned_charges(self) -> tuple[Charge, ...]:
        """Everything the run will charge if nothing goes wrong, spare steps not included."""
        return self._charges(self.steps)

    def most_charges(self) -> tuple[Charge, ...]:
        """Everything the run may charge, spare steps included."""
        return self._charges(self.steps + self.spare_steps)

    def _charges(self, steps: int) -> tuple[Charge, ...]:
        training = self.training_charge(steps) if self.steps else None
        return tuple(c for c in (self.votes_charge(), self.statistics_charge(), training) if c is not None)

    def planned_epsilon(self) -> EpsilonResult:
        """What the run will cost. Raises PrivacyError when the accountants disagree."""
        result = compute_epsilon(self.planned_charges(), delta=self.target_delta)
        check_agreement(result)
        return result

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


def calibrated_plan(*, noise_multiplier: float | None, is_private: bool = True, **terms: Any) -> PrivacyPlan:
    """Returns a plan whose releases, steps and spare steps together cost at most its target.

    Args:
        noise_multiplier: Taken as it is where it is given; None has the least that fits calibrated. Without steps it
            is that of the statistics.
        is_private: False with a fixed debugging key.
        terms: The other fields of PrivacyPlan.

    Raises SpecError when the stated noise is too little for the target, or the votes alone exceed it.
    """
    if not terms["steps"]:
        return _plan_of_statistics(noise_multiplier, is_private=is_private, **terms)
    votes, statistics = terms["votes_noise_multiplier"], terms.get("statistics_noise_multiplier")
    others = (
        *(() if votes is None else (histogram_charge(votes),)),
        *(() if statistics is None else (statistics_charge(statistics),)),
    )
    found = noise_multiplier
    if found is None:
        found = calibrate_noise_multiplier(
            target_epsilon=terms["target_epsilon"],
            delta=terms["target_delta"],
            sample_rate=terms["sample_rate"],
            num_steps=terms["steps"] + terms["spare_steps"],
            other_charges=others,
        )
    plan = PrivacyPlan(noise_multiplier=found, is_private=is_private, **terms)
    if noise_multiplier is not None:
        _require_fit(plan)
    return plan


def _plan_of_statistics(noise_multiplier: float | None, *, is_private: bool, **terms: Any) -> PrivacyPlan:
    """Returns a plan without training steps, whose statistics have the least noise that fits the target."""
    stated = terms.pop("statistics_noise_multiplier", None) or noise_multiplier
    votes = terms["votes_noise_multiplier"]
    found = stated
    if found is None:
        # One step at rate 1 is the same mechanism but for the rounding of the accountant, which the loop makes up for.
        found = calibrate_noise_multiplier(
            target_epsilon=terms["target_epsilon"],
            delta=terms["target_delta"],
            sample_rate=1.0,
            num_steps=1,
            other_charges=() if votes is None else (histogram_charge(votes),),
        )
        budget = Budget(terms["target_epsilon"], terms["target_delta"])
        others = () if votes is None else (histogram_charge(votes),)
        while not budget.fits((*others, statistics_charge(found))):
            found *= 1 + 1e-6
    plan = PrivacyPlan(noise_multiplier=found, statistics_noise_multiplier=found, is_private=is_private, **terms)
    if stated is not None:
        _require_fit(plan)
    return plan


def _require_fit(plan: PrivacyPlan) -> None:
    """Raises SpecError when noise that was stated is too little for the target."""
    charges = plan.most_charges()
    budget = Budget(plan.target_epsilon, plan.target_delta)
    if not budget.fits(charges):
        raise SpecError(
            f"privacy.noise_multiplier {plan.noise_multiplier:g} costs epsilon {budget.epsilon(charges):.4f} for "
            f"{plan.steps} steps and {plan.spare_steps} spare ones, over privacy.target_epsilon "
            f"{plan.target_epsilon:g}; leave it out to have it calibrated"
        )
