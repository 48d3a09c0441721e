"""A receipt of the ledger: steps whose noise has been paid for, which is what a private mechanism asks for to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rapid_dist.privacy.bounded import charge_from_dict
from rapid_dist.privacy.charges import AnyCharge


@dataclass(frozen=True, kw_only=True)
class PaidSteps:
    """The charge of one ledger entry and the steps of its attempt that it pays for. Only the ledger issues it.

    first_step: the first of charge.num_steps steps; 0 for a mechanism that has no steps. entry: digest of the
    entry, so that the receipt can be checked against the ledger.
    """

    attempt: int
    first_step: int
    charge: AnyCharge
    entry: str

    @property
    def steps(self) -> range:
        """The training steps that were paid for."""
        return range(self.first_step, self.first_step + self.charge.num_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, to hand the receipt to the other workers of a group."""
        return {
            "attempt": self.attempt,
            "first_step": self.first_step,
            "charge": self.charge.to_dict(),
            "entry": self.entry,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PaidSteps:
        """The receipt that to_dict wrote, on a worker that rank 0 handed it to."""
        return cls(**{**values, "charge": charge_from_dict(values["charge"])})
