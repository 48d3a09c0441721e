"""What is publicly known of each prototype: its entries and the public classes among them."""

from __future__ import annotations

import numpy as np

from rapid_dist.retrieval.search import KnowledgeBaseSearch


def prototype_label_shares(search: KnowledgeBaseSearch, num_prototypes: int, num_labels: int) -> np.ndarray:
    """(num_prototypes, num_labels) shares of public classes within each prototype; rows of zeros where unlabelled."""
    table = np.zeros((num_prototypes, num_labels))
    for shard in search.shards:
        known = shard.label >= 0
        np.add.at(table, (shard.prototype[known], shard.label[known]), 1.0)
    totals = table.sum(1, keepdims=True)
    return np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
