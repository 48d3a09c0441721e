"""What a step of private training would take on many workers, from the measured parts of a step on one.

    step(W) = (data + gradient + noise) / W + straggler(W) + update + checkpoint + ledger + all_reduce(W)

Every worker adds the noise of its own slice of the coordinates, so noise divides like work on records does. Records are
included by Poisson sampling, so workers get unequal batches and all wait for the largest; that wait is straggler(W).
Two sums over workers a step, each a ring of 2 (W - 1) hops with 1 / W of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rapid_dist.errors import SpecError

PER_RECORD = ("data", "gradient")
SLICED = ("noise",)
FIXED = ("update", "checkpoint", "ledger")
WORLD_SIZES = (1, 2, 4, 8, 16, 32, 64)
SUMS_A_STEP = 2
LEFT_OUT = (
    "not in the projection: cores, caches and memory bandwidth that workers of one host share; another speed of a "
    "record in a smaller batch; congestion, topology and other links than the measured one; a ledger on S3; reading "
    "data, starts and restarts of the group"
)


@dataclass(frozen=True, kw_only=True)
class Link:
    """One hop between two workers: its latency, and the bytes it carries a second."""

    latency_seconds: float
    bytes_per_second: float

    def __post_init__(self) -> None:
        if not (self.latency_seconds >= 0 and self.bytes_per_second > 0):
            raise SpecError(f"got {self}; expected a latency of 0 or above and a rate above 0")


@dataclass(frozen=True, kw_only=True)
class Projected:
    """A step on world_size workers in seconds: as a whole, waiting for the largest batch, and in sums over workers.

    efficiency: step(1) / (W step(W)).
    """

    world_size: int
    step_seconds: float
    straggler_seconds: float
    all_reduce_seconds: float
    efficiency: float


def link_of(*, empty_seconds: float, full_seconds: float, num_bytes: int) -> Link:
    """Returns the link from two measured sums over 2 workers: of nothing to speak of, and of num_bytes.

    On 2 workers a ring makes 2 hops, each with half of the bytes.
    Raises SpecError when the full sum did not take longer than the empty one.
    """
    if not full_seconds > empty_seconds:
        raise SpecError(
            f"a sum of {num_bytes} bytes took {full_seconds} s and an empty one {empty_seconds} s; measure on a "
            "quieter machine, or with a larger model"
        )
    return Link(latency_seconds=empty_seconds / 2, bytes_per_second=num_bytes / (full_seconds - empty_seconds))


def ring_seconds(world_size: int, num_bytes: float, link: Link) -> float:
    """Returns the time of one ring all-reduce: 2 (W - 1) (latency + bytes / (W rate)); 0 for one worker."""
    return 2 * (world_size - 1) * (link.latency_seconds + num_bytes / (world_size * link.bytes_per_second))


def expected_largest(world_size: int) -> float:
    """Returns E[max] of world_size independent standard normals, by the integral of 1 - cdf^W less its mirror."""
    from scipy.stats import norm

    x = np.linspace(-10.0, 10.0, 20_001)
    density = world_size * norm.pdf(x) * norm.cdf(x) ** (world_size - 1)
    return float(np.trapezoid(x * density, x))


def project_scaling(
    parts: Mapping[str, float],
    *,
    expected_batch_size: float,
    sample_rate: float,
    gradient_bytes: int,
    link: Link,
    world_sizes: Sequence[int] = WORLD_SIZES,
) -> list[Projected]:
    """Returns a step on each number of workers, the global batch unchanged.

    parts: seconds a step on one worker of each of PER_RECORD, SLICED and FIXED. expected_batch_size: global;
    gradient_bytes: of one sum. A worker's batch is Binomial with mean B / W and variance B (1 - q) / W, taken as
    normal; all per-record work counts as growing with it.
    Raises SpecError when a part is missing or a world size is below 1.
    """
    missing = [name for name in (*PER_RECORD, *SLICED, *FIXED) if name not in parts]
    if missing or min(world_sizes) < 1:
        raise SpecError(f"got parts {sorted(parts)} and world sizes {list(world_sizes)}; missing {missing}, or below 1")
    per_record, sliced, fixed = (sum(parts[name] for name in names) for names in (PER_RECORD, SLICED, FIXED))

    def step(world_size: int) -> tuple[float, float, float]:
        spread = (expected_batch_size * (1 - sample_rate) / world_size) ** 0.5 / expected_batch_size
        straggler = per_record * expected_largest(world_size) * spread if world_size > 1 else 0.0
        reduce = SUMS_A_STEP * ring_seconds(world_size, gradient_bytes, link)
        return (per_record + sliced) / world_size + straggler + fixed + reduce, straggler, reduce

    alone = step(1)[0]
    made = [(world_size, *step(world_size)) for world_size in world_sizes]
    return [
        Projected(
            world_size=world_size,
            step_seconds=seconds,
            straggler_seconds=straggler,
            all_reduce_seconds=reduce,
            efficiency=alone / (world_size * seconds),
        )
        for world_size, seconds, straggler, reduce in made
    ]


def scaling_lines(projected: Sequence[Projected]) -> list[str]:
    """Returns the curve as a table."""
    lines = [f"{'workers':>7}{'ms a step':>12}{'steps/s':>10}{'wait ms':>10}{'all-reduce ms':>15}{'efficiency':>12}"]
    for p in projected:
        lines.append(
            f"{p.world_size:>7}{1e3 * p.step_seconds:>12.2f}{1 / p.step_seconds:>10.2f}"
            f"{1e3 * p.straggler_seconds:>10.2f}{1e3 * p.all_reduce_seconds:>15.2f}{p.efficiency:>12.1%}"
        )
    return lines
