"""Where the private model's class embeddings start, and which public classes stand in for a private class.

Functions of public weights, the spec, and at most the charged noisy votes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from rapid_dist.seeding import make_rng

CLASS_WEIGHT = "embed_class.weight"  # (embedding_dim, num_conditions) in every denoiser


def vote_shares(noisy_votes: np.ndarray, noise_multiplier: float) -> np.ndarray:
    """Noisy votes (classes, prototypes) -> shares that sum to 1 in each row; post-processing of the release.

    Counts below two noise standard deviations are taken for noise; a class with none left is uniform.
    """
    kept = np.where(noisy_votes > 2 * noise_multiplier, noisy_votes, 0.0)
    totals = kept.sum(1, keepdims=True)
    uniform = np.full_like(kept, 1 / kept.shape[1])
    return np.where(totals > 0, kept / np.where(totals > 0, totals, 1), uniform)


def public_class_weights(
    num_classes: int,
    num_public_classes: int,
    *,
    label_map: Mapping[int, int],
    class_shares: np.ndarray | None,
) -> np.ndarray:
    """(num_classes, num_public_classes) non-negative: how much each public class stands for each private one.

    class_shares: noisy shares of public classes per private class, or None. The label map wins over the shares;
    a class nothing is known of has a row of zeros.
    """
    weights = np.zeros((num_classes, num_public_classes))
    if label_map:
        for public, private in label_map.items():
            if public < num_public_classes:
                weights[private, public] = 1.0
    elif class_shares is not None:
        weights = np.asarray(class_shares, dtype=float).copy()
    totals = weights.sum(1, keepdims=True)
    return np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)


def _one_to_one(weights: np.ndarray, seed: int) -> np.ndarray:
    """One public class a private class, (num_classes,), distinct while there are enough, by largest total weight."""
    num_classes, num_public = weights.shape
    jitter = make_rng(seed, "class-start").random(weights.shape) * 1e-6
    repeated = np.tile(weights + jitter, (1, -(-num_classes // num_public)))
    rows, columns = linear_sum_assignment(-repeated)
    chosen = np.empty(num_classes, dtype=np.int64)
    chosen[rows] = columns % num_public
    return chosen


def start_private_model(
    private: nn.Module, public_weights: Mapping[str, torch.Tensor], *, class_init: str, weights: np.ndarray, seed: int
) -> None:
    """Copies the public weights into the private model; class embeddings start as class_init says.

    weights: (num_classes, num_public_classes) from public_class_weights. `zero` starts all classes equal, `distinct`
    and `votes` give each private class the embedding of a public class of its own, the one it weighs most.
    """
    state = dict(private.state_dict())
    for name, value in public_weights.items():
        if name in state and state[name].shape == value.shape and name != CLASS_WEIGHT:
            state[name] = value
    if CLASS_WEIGHT in state:
        table = torch.zeros_like(state[CLASS_WEIGHT])
        public = public_weights.get(CLASS_WEIGHT)
        if class_init != "zero" and public is not None:
            table = public[:, torch.from_numpy(_one_to_one(weights, seed))].clone()
        elif class_init != "zero":
            rng = make_rng(seed, "class-embedding")
            table = torch.from_numpy(rng.standard_normal(table.shape).astype(np.float32))
        state[CLASS_WEIGHT] = table
    private.load_state_dict(state)
