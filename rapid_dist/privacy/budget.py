"""A limit in epsilon at one delta, and how much of a charge still fits under it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import replace

from rapid_dist.errors import BudgetExceededError
from rapid_dist.privacy.accounting import epsilon_pld, is_within
from rapid_dist.privacy.charges import AnyCharge, Charge, merge_charges

_TOLERANCE = 1e-9


class Budget:
    """Charges may together cost target_epsilon at target_delta, by PLD; what is known to fit is remembered."""

    def __init__(self, target_epsilon: float, target_delta: float):
        self.target_epsilon, self.target_delta = target_epsilon, target_delta
        self._known_to_fit: Counter[Hashable] = Counter()

    def epsilon(self, charges: Iterable[AnyCharge]) -> float:
        """What the charges cost together, at target_delta."""
        return epsilon_pld(charges, self.target_delta)

    def fits(self, charges: Iterable[AnyCharge]) -> bool:
        """Whether the charges stay within the target. Part of what is known to fit fits: epsilon is monotone."""
        charges = tuple(charges)
        uses = _uses(charges)
        if uses <= self._known_to_fit:
            return True
        if not is_within(charges, self.target_delta, self.target_epsilon + _TOLERANCE):
            return False
        self._known_to_fit = uses
        return True

    def refuse_overspending(
        self, already: tuple[AnyCharge, ...], more: tuple[AnyCharge, ...], *, name: str, what: str
    ) -> None:
        """Raises BudgetExceededError when more does not fit beside what is charged already."""
        together = (*already, *more)
        if not self.fits(together):
            raise BudgetExceededError(
                f"{what} would bring epsilon from {self.epsilon(already):.6f} to {self.epsilon(together):.6f}, over"
                f" {name} {self.target_epsilon} at delta {self.target_delta}; nothing was charged"
            )

    def largest_fitting(self, already: Iterable[AnyCharge], charge_like: Charge, up_to: int) -> int:
        """The largest n <= up_to such that n steps of charge_like still fit beside what is charged; 0 when none.

        Epsilon rises with n: all of up_to is tried first, then the range is halved.
        """
        already = tuple(already)
        low, high = 0, max(up_to, 0) + 1
        middle = high - 1
        while low < middle:
            if self.fits((*already, replace(charge_like, num_steps=middle))):
                low = middle
            else:
                high = middle
            middle = (low + high) // 2
        return low


def _uses(charges: Iterable[AnyCharge]) -> Counter[Hashable]:
    """How often each mechanism is used: the steps of a Gaussian, one for each charge known by a bound."""
    uses: Counter[Hashable] = Counter()
    for charge in merge_charges(charges):
        is_gaussian = isinstance(charge, Charge)
        key = (charge.mechanism, charge.sample_rate, charge.noise_multiplier) if is_gaussian else charge
        uses[key] += charge.num_steps
    return uses
