"""Which nodes one worker or task may run on, and how much of one it may ask for, so that it fits and still fits when
a node is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapid_dist.errors import SpecError

PRIVATE_DATA = "private_data"  # the resource of nodes that can read private data
DATA_LABEL, PRIVATE = "rapid-dist/data", "private"  # the label of the same nodes
_SLIVER = 0.001  # never what a node runs out of


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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where work may run. cpus_of_nodes: of the nodes there now; the rest is for Ray's options of the same names."""

    cpus_of_nodes: tuple[int, ...]
    resources: dict[str, float] = field(default_factory=dict)
    label_selector: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options of a task or an actor; none where there is nothing to tell nodes apart."""
        options = {"resources": self.resources, "label_selector": self.label_selector}
        return {name: value for name, value in options.items() if value}


def place_for(nodes: Sequence[Mapping[str, Any]], *, is_private: bool) -> Place:
    """Returns where work on private data, or on public data, may run among the nodes alive, as Ray lists them.

    Where any node declares the resource PRIVATE_DATA, private work asks for a sliver of it, and public work keeps off
    the nodes with the label, those that join later included. Where none does, work runs anywhere.

    Guarantee: with nodes declared, no task or worker of a private stage is placed on another node.
    Raises SpecError when a node has the resource without the label, or the label without the resource.
    """
    cpus = {is_declared: [] for is_declared in (True, False)}
    for node in nodes:
        resources, labels = node["Resources"], node.get("Labels") or {}
        is_declared, is_labelled = resources.get(PRIVATE_DATA, 0) > 0, labels.get(DATA_LABEL) == PRIVATE
        if is_declared != is_labelled:
            has, lacks = f"resource {PRIVATE_DATA}", f"label {DATA_LABEL}={PRIVATE}"
            has, lacks = (has, lacks) if is_declared else (lacks, has)
            raise SpecError(
                f"Ray node {node.get('NodeManagerAddress', '')} has the {has} but not the {lacks}; start it with both, "
                "or with neither"
            )
        cpus[is_declared].append(int(resources.get("CPU", 0)))
    if not cpus[True]:
        return Place(cpus_of_nodes=tuple(cpus[False]))
    if is_private:
        return Place(cpus_of_nodes=tuple(cpus[True]), resources={PRIVATE_DATA: _SLIVER})
    return Place(cpus_of_nodes=tuple(cpus[False]), label_selector={DATA_LABEL: f"!{PRIVATE}"})
