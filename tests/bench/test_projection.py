"""The paper calculation against arithmetic done by hand."""

import pytest

from rapid_dist.bench.projection import MeasuredShard, project, projection_lines
from rapid_dist.errors import SpecError

SHARD = MeasuredShard(
    keys=1_000_000, build_rate=2_000.0, query_rate=4_000.0, memory_bytes_per_key=1_200.0, disk_bytes_per_key=670.0
)


def test_a_billion_trajectories_by_hand():
    p = project(SHARD, num_keys=10**9, num_cores=500, num_probes=4, value_bytes=100)
    assert p.num_shards == 1_000
    assert p.memory_bytes == 1.3e12
    assert p.shard_memory_bytes == 1.3e9
    assert p.disk_bytes == 7.7e11
    assert p.build_core_seconds == 500_000  # 1e9 / 2,000
    assert p.build_seconds == 1_000  # two rounds of 500 shards, 500 s each
    assert p.routed_core_seconds == pytest.approx(0.001)  # 4 searches of 0.25 ms
    assert p.routed_query_rate == pytest.approx(500_000)
    assert p.fan_out_core_seconds == pytest.approx(0.25)
    assert p.fan_out_query_rate == pytest.approx(2_000)


def test_a_last_shard_that_is_not_full_is_a_shard_and_a_round():
    p = project(SHARD, num_keys=2_000_001, num_cores=2, num_probes=9)
    assert (p.num_shards, p.num_probes) == (3, 3)
    assert p.build_seconds == 2 * 500


def test_fewer_keys_than_a_shard_are_one_smaller_shard():
    p = project(SHARD, num_keys=1_000, num_cores=1, num_probes=1, value_bytes=0)
    assert p.num_shards == 1
    assert p.build_seconds == p.build_core_seconds == 0.5
    assert p.shard_memory_bytes == p.memory_bytes == 1.2e6


def test_cost_of_routed_queries_does_not_grow_with_the_base():
    small, large = (project(SHARD, num_keys=n, num_cores=8, num_probes=4) for n in (10**7, 10**10))
    assert small.routed_core_seconds == large.routed_core_seconds
    assert large.fan_out_core_seconds == pytest.approx(1000 * small.fan_out_core_seconds)


def test_lines_say_every_quantity():
    text = "\n".join(
        projection_lines(project(SHARD, num_keys=10**9, num_cores=500, num_probes=4, value_bytes=100), SHARD)
    )
    for said in ("1,000,000,000", "1.30 TB", "1.3 GB a shard", "770.0 GB", "139 core hours", "1.00 ms", "250 ms"):
        assert said in text


@pytest.mark.parametrize(
    "change", [{"num_keys": 0}, {"num_cores": 0}, {"num_probes": 0}, {"value_bytes": -1}], ids=lambda c: next(iter(c))
)
def test_counts_out_of_range_are_refused(change):
    with pytest.raises(SpecError, match="expected"):
        project(SHARD, **({"num_keys": 1, "num_cores": 1, "num_probes": 1} | change))


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_constants_that_were_not_measured_are_refused(value):
    with pytest.raises(SpecError, match="query_rate"):
        MeasuredShard(keys=1, build_rate=1, query_rate=value, memory_bytes_per_key=1, disk_bytes_per_key=1)
