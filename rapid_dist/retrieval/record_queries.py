"""The nearest trajectory of each record of a table, restricted to public classes where a label map says so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rapid_dist.errors import SpecError
from rapid_dist.retrieval.interface import TrajectorySearch


def allowed_public_labels(label_map: Mapping[int, int], private_class: int) -> frozenset[int]:
    """Public classes that stand for a private class; empty means all of them."""
    return frozenset(public for public, private in label_map.items() if private == private_class)


def nearest_trajectories(
    keys: np.ndarray, label: np.ndarray, search: TrajectorySearch, label_map: Mapping[int, int]
) -> np.ndarray:
    """Trajectory id (n,) int64 nearest to each key (n, d) float32, among the public classes allowed for its label.

    label: (n,) private classes, -1 for none. Raises SpecError when a mapped public class has no trajectory.

    Guarantee: entry i is a function of key i, label i and the public base alone. The ids are private.
    """
    found = np.empty(len(keys), dtype=np.int64)
    for private_class in np.unique(label):
        rows = np.flatnonzero(label == private_class)
        allowed = allowed_public_labels(label_map, int(private_class))
        if allowed:
            nearest = search.query_within(keys[rows], num_neighbors=1, column="label", allowed=[allowed] * len(rows))
        else:
            nearest = search.query(keys[rows], num_neighbors=1)
        found[rows] = nearest.trajectory_id[:, 0]
    if (found < 0).any():
        raise SpecError(
            "knowledge_base.label_map names public classes that have no trajectory in the knowledge base; "
            "correct the map or add such images to data.public"
        )
    return found
