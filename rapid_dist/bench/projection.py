"""What a knowledge base far larger than the measured one would cost, by multiplication from measured constants.

It holds because shards are independent and of one size: a shard of the measured size costs what was measured,
whatever the number of shards beside it. Network, stragglers and failures are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rapid_dist.errors import SpecError

VALUE_BYTES = 128  # A latent of 64 float16.


@dataclass(frozen=True, kw_only=True)
class MeasuredShard:
    """One shard as measured.

    keys: in the shard; build_rate: keys a core second; query_rate: queries a core second on this one shard;
    memory_bytes_per_key: of the open index; disk_bytes_per_key: of its file.
    Raises SpecError when a constant is not positive.
    """

    keys: int
    build_rate: float
    query_rate: float
    memory_bytes_per_key: float
    disk_bytes_per_key: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise SpecError(f"{name} is {value}; expected a measured number above 0")


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A base of num_keys trajectories in num_shards shards of the measured size, on num_cores cores in all.

    memory_bytes: indexes and values, all shards open; shard_memory_bytes: what one process with one shard needs;
    disk_bytes: index files and values; build_core_seconds; build_seconds: on all cores; routed and fan_out:
    core seconds a query, and queries a second on all cores, over num_probes shards or over all.
    """

    num_keys: int
    num_shards: int
    num_cores: int
    num_probes: int
    memory_bytes: float
    shard_memory_bytes: float
    disk_bytes: float
    build_core_seconds: float
    build_seconds: float
    routed_core_seconds: float
    routed_query_rate: float
    fan_out_core_seconds: float
    fan_out_query_rate: float


def project(
    shard: MeasuredShard, *, num_keys: int, num_cores: int, num_probes: int, value_bytes: int = VALUE_BYTES
) -> Projection:
    """Returns the cost of num_keys trajectories from one measured shard.

    num_cores: of the whole cluster; num_probes: shards a routed query asks; value_bytes: a trajectory's value.
    A shard is built by one core, so the build takes whole rounds of num_cores shards.
    Raises SpecError when a count is below 1 or value_bytes below 0.
    """
    for name, value in (("num_keys", num_keys), ("num_cores", num_cores), ("num_probes", num_probes)):
        if value < 1:
            raise SpecError(f"{name} is {value}; expected at least 1")
    if value_bytes < 0:
        raise SpecError(f"value_bytes is {value_bytes}; expected 0 or above")
    num_shards = -(-num_keys // shard.keys)
    shard_seconds = min(shard.keys, num_keys) / shard.build_rate
    routed = min(num_probes, num_shards) / shard.query_rate
    fan_out = num_shards / shard.query_rate
    return Projection(
        num_keys=num_keys,
        num_shards=num_shards,
        num_cores=num_cores,
        num_probes=min(num_probes, num_shards),
        memory_bytes=num_keys * (shard.memory_bytes_per_key + value_bytes),
        shard_memory_bytes=min(shard.keys, num_keys) * (shard.memory_bytes_per_key + value_bytes),
        disk_bytes=num_keys * (shard.disk_bytes_per_key + value_bytes),
        build_core_seconds=num_keys / shard.build_rate,
        build_seconds=-(-num_shards // num_cores) * shard_seconds,
        routed_core_seconds=routed,
        routed_query_rate=num_cores / routed,
        fan_out_core_seconds=fan_out,
        fan_out_query_rate=num_cores / fan_out,
    )


def projection_lines(projection: Projection, shard: MeasuredShard) -> list[str]:
    """Returns the calculation as lines of text, each with its multiplication."""
    p = projection
    return [
        f"{p.num_keys:,} trajectories on {p.num_cores:,} cores, from the measured shard of {shard.keys:,} keys",
        f"shards        {p.num_shards:,}",
        f"memory        {_bytes(p.memory_bytes)} in all, {_bytes(p.shard_memory_bytes)} a shard: index "
        f"{shard.memory_bytes_per_key:.0f} bytes a key, and the value",
        f"disk          {_bytes(p.disk_bytes)}: index file {shard.disk_bytes_per_key:.0f} bytes a key, and the value",
        f"build         {p.build_core_seconds / 3600:,.0f} core hours at {shard.build_rate:,.0f} keys a core second; "
        f"{p.build_seconds / 3600:.2f} h of wall time",
        f"routed query  {1e3 * p.routed_core_seconds:.2f} ms of a core over {p.num_probes} shards; "
        f"{p.routed_query_rate:,.0f} queries/s on all cores",
        f"full fan-out  {1e3 * p.fan_out_core_seconds:,.0f} ms of a core over {p.num_shards:,} shards; "
        f"{p.fan_out_query_rate:,.0f} queries/s on all cores",
    ]


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"
