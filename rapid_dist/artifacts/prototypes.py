"""What is publicly known of each prototype: its entries and the public classes among them."""

from __future__ import annotations

import numpy as np

from rapid_dist.retrieval.interface import TrajectorySearch


def prototype_label_shares(search: TrajectorySearch, num_prototypes: int, num_labels: int) -> np.ndarray:
    """(num_prototypes, num_labels) shares of public classes within each prototype; rows of zeros where unlabelled."""
    table = search.count_labels(num_prototypes, num_labels).astype(np.float64)
    totals = table.sum(1, keepdims=True)
    return np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
