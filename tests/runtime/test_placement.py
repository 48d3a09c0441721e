"""What workers and tasks ask for fits on the nodes there are, and still does when one is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapid_dist.errors import SpecError
from rapid_dist.runtime.session import DATA_LABEL, PRIVATE_DATA, cpus_for_one_task, cpus_per_worker, place_for

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


def node(cpus=2, *, has_resource=False, has_label=False):
    return {
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {"CPU": float(cpus), **({PRIVATE_DATA: 1.0} if has_resource else {})},
        "Labels": {DATA_LABEL: "private"} if has_label else {},
    }


def test_where_no_node_declares_private_data_nothing_is_asked_for():
    for is_private in (True, False):
        place = place_for([node(2), node(4)], is_private=is_private)
        assert (place.cpus_of_nodes, place.options) == ((2, 4), {})


def test_private_work_keeps_to_the_nodes_that_declare_it_and_public_work_keeps_off_them():
    nodes = [node(0), node(2), node(8, has_resource=True, has_label=True)]
    private, public = (place_for(nodes, is_private=is_private) for is_private in (True, False))
    assert private.cpus_of_nodes == (8,)
    assert set(private.options) == {"resources"}
    assert 0 < private.resources[PRIVATE_DATA] <= 0.001
    assert public.cpus_of_nodes == (0, 2)
    assert public.options == {"label_selector": {DATA_LABEL: "!private"}}


@pytest.mark.parametrize("has_resource", [True, False])
def test_a_node_that_declares_half_is_refused(has_resource):
    half = node(has_resource=has_resource, has_label=not has_resource)
    for is_private in (True, False):
        with pytest.raises(SpecError, match=r"10\.0\.0\.1 has the .* but not the .*with both, or with neither"):
            place_for([node(), half], is_private=is_private)
