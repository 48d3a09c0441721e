"""The step on many workers against arithmetic done by hand."""

import math

import pytest

from rapid_dist.bench.scaling_projection import (
    LEFT_OUT,
    WORLD_SIZES,
    Link,
    expected_largest,
    link_of,
    project_scaling,
    ring_seconds,
    scaling_lines,
)
from rapid_dist.errors import SpecError

PARTS = {"data": 0.010, "gradient": 0.790, "noise": 0.040, "update": 0.008, "checkpoint": 0.0015, "ledger": 0.0005}
LINK = Link(latency_seconds=0.001, bytes_per_second=1e9)
GIVEN = {"expected_batch_size": 100.0, "sample_rate": 0.19, "gradient_bytes": 8_000_000, "link": LINK}


def test_a_ring_by_hand():
    assert ring_seconds(1, 8e6, LINK) == 0
    assert ring_seconds(2, 8e6, LINK) == pytest.approx(2 * (0.001 + 0.004))
    assert ring_seconds(4, 8e6, LINK) == pytest.approx(6 * (0.001 + 0.002))


def test_the_link_gives_back_the_sums_it_was_measured_from():
    link = link_of(empty_seconds=0.002, full_seconds=0.010, num_bytes=8_000_000)
    assert (link.latency_seconds, link.bytes_per_second) == (0.001, pytest.approx(1e9))
    assert ring_seconds(2, 8e6, link) == pytest.approx(0.010)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, 0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi)), (4, 1.02938), (64, 2.34373)],
)
def test_the_largest_of_normals_is_that_of_the_tables(count, expected):
    assert expected_largest(count) == pytest.approx(expected, abs=2e-5)


def test_a_step_on_two_workers_by_hand():
    one, two = project_scaling(PARTS, **GIVEN, world_sizes=(1, 2))
    assert (one.step_seconds, one.efficiency) == (pytest.approx(0.850), 1)
    assert (one.straggler_seconds, one.all_reduce_seconds) == (0, 0)
    # A batch of 50 varies by 0.9 sqrt(50) records of 8 ms each; the larger of two is 0.5642 of that above the mean.
    wait = 0.008 * 0.9 * math.sqrt(50) / math.sqrt(math.pi)
    assert two.straggler_seconds == pytest.approx(wait)
    assert two.all_reduce_seconds == pytest.approx(0.020)
    assert two.step_seconds == pytest.approx(0.840 / 2 + 0.010 + 0.020 + wait)
    assert two.efficiency == pytest.approx(0.850 / (2 * two.step_seconds))


def test_work_that_divides_perfectly_has_efficiency_one_at_any_size():
    parts = {**dict.fromkeys(PARTS, 0.0), "noise": 1.0}
    free = Link(latency_seconds=0.0, bytes_per_second=math.inf)
    assert [p.efficiency for p in project_scaling(parts, **{**GIVEN, "link": free})] == pytest.approx([1.0] * 7)


def test_fixed_work_bounds_the_speedup():
    parts = {**dict.fromkeys(PARTS, 0.0), "noise": 0.9, "ledger": 0.1}
    free = Link(latency_seconds=0.0, bytes_per_second=math.inf)
    *_, last = project_scaling(parts, **{**GIVEN, "link": free}, world_sizes=(1, 9))
    assert last.step_seconds == pytest.approx(0.2)


def test_the_lines_have_every_size_and_what_is_left_out_is_said():
    lines = scaling_lines(project_scaling(PARTS, **GIVEN))
    assert [int(line.split()[0]) for line in lines[1:]] == list(WORLD_SIZES)
    assert lines[1].split() == ["1", "850.00", "1.18", "0.00", "0.00", "100.0%"]
    for word in ("bandwidth", "topology", "S3", "restarts"):
        assert word in LEFT_OUT


def test_what_was_not_measured_is_refused():
    with pytest.raises(SpecError, match="missing \\['noise'\\]"):
        project_scaling({k: v for k, v in PARTS.items() if k != "noise"}, **GIVEN)
    with pytest.raises(SpecError, match="below 1"):
        project_scaling(PARTS, **GIVEN, world_sizes=(0, 1))
    with pytest.raises(SpecError, match="quieter machine"):
        link_of(empty_seconds=0.01, full_seconds=0.01, num_bytes=8)
    with pytest.raises(SpecError, match="rate above 0"):
        Link(latency_seconds=0.0, bytes_per_second=0.0)
