import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapid_dist.errors import SpecError
from rapid_dist.knowledge_base.clusters import plan_compaction


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=30), st.integers(1, 120))
def test_a_merge_has_one_cluster_and_room_and_no_shard_is_merged_twice(shards, max_rows):
    groups = plan_compaction(shards, max_rows=max_rows)
    merged = [position for group in groups for position in group]
    assert len(merged) == len(set(merged))
    for group in groups:
        assert len(group) > 1
        assert len({shards[p][0] for p in group}) == 1
        assert sum(shards[p][1] for p in group) <= max_rows


def test_the_smallest_are_merged_first():
    assert plan_compaction([(0, 90), (0, 10), (0, 20), (0, 30)], max_rows=100) == [[1, 2, 3]]


def test_nothing_that_fits_is_left_alone():
    assert plan_compaction([(0, 60), (0, 70), (1, 20)], max_rows=100) == []
    assert plan_compaction([], max_rows=5) == []


def test_a_size_below_one_is_refused():
    with pytest.raises(SpecError, match="max_rows is 0"):
        plan_compaction([(0, 1)], max_rows=0)
