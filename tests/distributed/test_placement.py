"""What workers and tasks ask for fits on the nodes there are, and still does when one is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapid_dist.distributed.placement import cpus_for_one_task, cpus_per_worker

NODES = st.lists(st.integers(0, 64), max_size=6)


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [([2], 1, 2), ([2], 2, 1), ([2], 3, 0), ([0, 1, 1], 2, 1), ([4, 4, 4], 2, 4), ([16, 1], 2, 8), ([], 1, 0)],
)
def test_workers_get_the_most_that_fits_without_spanning_nodes(nodes, workers, cpus):
    assert cpus_per_worker(nodes, workers) == cpus


@given(NODES, st.integers(1, 20))
def test_what_workers_get_fits_and_one_more_would_not(nodes, workers):
    cpus = cpus_per_worker(nodes, workers)
    if cpus:
        assert sum(node // cpus for node in nodes) >= workers
    assert sum(node // (cpus + 1) for node in nodes) < workers


@given(NODES)
def test_one_task_can_be_placed_after_any_one_node_is_lost(nodes):
    filled = [node for node in nodes if node]
    cpus = cpus_for_one_task(nodes)
    if len(filled) == 1:
        assert cpus == filled[0]
    for lost in range(len(filled)):
        left = filled[:lost] + filled[lost + 1 :]
        assert not left or max(left) >= cpus >= 1
