"""Where and how fast a run goes; in no digest."""

from __future__ import annotations

from dataclasses import dataclass

from rapid_dist.specs.parsing import require, require_positive


@dataclass(frozen=True, kw_only=True)
class RuntimeSpec:
    """Speed and place only, so it is not in any digest.

    Nothing private depends on it beyond rounding. Public training draws other batches with another number of workers,
    and so gives other, equally good, public weights. An elastic group that changes its size begins a new attempt at the
    last checkpoint: the ledger pays again for the steps since, out of privacy.spare_steps.
    """

    num_workers: int = 1
    min_workers: int | None = None  # with max_workers: an elastic group, instead of num_workers
    max_workers: int | None = None
    resize_seconds: float = 60.0  # how often a healthy elastic group looks for room for more workers
    device: str = "cpu"
    num_cpus: int | None = None  # logical CPUs of a local Ray; None: what the machine has
    max_physical_batch_size: int = 1024  # (examples x noise draws) in memory at once
    max_failures: int = 2  # restarts of the worker group after a failure before it gives up; a resize is no failure

    def __post_init__(self) -> None:
        require_positive(self, "runtime", "num_workers", "max_physical_batch_size", "resize_seconds")
        low, high = self.min_workers, self.max_workers
        if low is not None or high is not None:
            require(
                low is not None and high is not None and 1 <= low <= high,
                f"runtime.min_workers is {low} and max_workers is {high}; expected both, with 1 <= min <= max",
            )
            require(
                self.num_workers == 1,
                f"runtime.num_workers is {self.num_workers} beside min_workers and max_workers; give one or the other",
            )
        require(self.max_failures >= 0, f"runtime.max_failures is {self.max_failures}; expected 0 or more")

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers a group may have; equal when it is fixed."""
        if self.min_workers is None:
            return self.num_workers, self.num_workers
        return self.min_workers, self.max_workers
