"""How much of a node one worker or task may ask for, so that it fits and still fits when a node is lost."""

from __future__ import annotations

from collections.abc import Sequence


def cpus_per_worker(cpus_of_nodes: Sequence[int], num_workers: int) -> int:
    """The most CPUs each of num_workers may have when none of them spans nodes; 0 when they do not fit at all."""
    for cpus in range(max(cpus_of_nodes, default=0), 0, -1):
        if sum(node // cpus for node in cpus_of_nodes) >= num_workers:
            return cpus
    return 0


def cpus_for_one_task(cpus_of_nodes: Sequence[int]) -> int:
    """The most CPUs a task may ask for and still be placed after any one node is lost; a lone node gives all it has."""
    largest = sorted((node for node in cpus_of_nodes if node), reverse=True)
    return largest[min(1, len(largest) - 1)] if largest else 1
