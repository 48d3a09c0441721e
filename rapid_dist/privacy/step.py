"""One step of DP-SGD as one mechanism: inclusion, clipping and noise from one plan, one key and one receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.clipping import PrivateBatch, clipped_gradient_sum
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.noise import add_noise_on_grid, draw_gaussian
from rapid_dist.privacy.paid import PaidSteps

if TYPE_CHECKING:
    from rapid_dist.privacy.plan import PrivacyPlan


class Summing(Protocol):
    """The workers of a step: which one this is, how many there are, and their elementwise sum."""

    rank: int
    world_size: int

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over all workers; every worker gets the same tensor."""


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

    def clipped_sum(self, model: torch.nn.Module, batch: PrivateBatch, *, max_physical_batch_size: int) -> torch.Tensor:
        """This worker's sum of per-example gradients clipped to the plan's norm, (P,) float64; private."""
        return clipped_gradient_sum(
            model,
            batch,
            max_grad_norm=self._plan.max_grad_norm,
            max_physical_batch_size=max_physical_batch_size,
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
