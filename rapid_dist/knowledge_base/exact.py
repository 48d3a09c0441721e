"""Exact nearest neighbours: the same bits however the keys are split, ordered or blocked.

A matrix product may round one (query, key) pair differently when its neighbours in memory change. So the
product only proposes candidates, with a margin larger than its error; a formula that looks at one pair at a
time gives the distances, and (distance, trajectory id) decides.
"""

from __future__ import annotations

import numpy as np

from rapid_dist.errors import InputError, SpecError
from rapid_dist.knowledge_base.neighbors import Neighbors, merge_neighbors, no_neighbors, select_neighbors

__all__ = ["SPACES", "Neighbors", "pair_distances", "prepare_vectors", "search_exact"]

SPACES = ("l2", "cosine", "ip")

_QUERIES_PER_BLOCK = 256
_KEYS_PER_BLOCK = 8192
_FLOATS_PER_BLOCK = 1 << 15  # One float64 block stays in a core's cache.
_SMALLEST_NORM = 1e-30


def search_exact(
    keys: np.ndarray, trajectory_ids: np.ndarray, queries: np.ndarray, *, num_neighbors: int, space: str
) -> Neighbors:
    """Returns the nearest keys of each query, ties to the smaller trajectory id.

    Distances are hnswlib's: l2 is squared, cosine is 1 - cos, ip is 1 - dot product. Merging the results
    over any partition of the rows gives the bits of the result over all of them.
    keys: (n, d); trajectory_ids: (n,) not negative, unique; queries: (q, d); vectors are taken as float32.
    Working memory is bounded by the block size and q * num_neighbors, whatever n is.
    Raises SpecError for an unknown space or num_neighbors < 1, InputError for bad shapes, ids or values.
    """
    found = no_neighbors(len(queries), num_neighbors)
    queries = prepare_vectors(queries, space=space, name="queries")
    trajectory_ids = check_ids(trajectory_ids, num_keys=len(keys))
    for k0 in range(0, len(keys), _KEYS_PER_BLOCK):
        block_ids = trajectory_ids[k0 : k0 + _KEYS_PER_BLOCK]
        block = prepare_vectors(keys[k0 : k0 + _KEYS_PER_BLOCK], space=space, name="keys", dim=queries.shape[1])
        for q0 in range(0, len(queries), _QUERIES_PER_BLOCK):
            rows = slice(q0, q0 + _QUERIES_PER_BLOCK)
            query, key = _propose(block, queries[rows], num_neighbors, space)
            distance = pair_distances(queries[rows], block, query, key, space=space)
            nearest = select_neighbors(
                query,
                block_ids[key],
                distance,
                num_queries=len(queries[rows]),
                num_neighbors=num_neighbors,
            )
            so_far = Neighbors(found.trajectory_id[rows], found.distance[rows])
            best = merge_neighbors([so_far, nearest], num_neighbors)
            found.trajectory_id[rows], found.distance[rows] = best.trajectory_id, best.distance
    return found


def prepare_vectors(vectors: np.ndarray, *, space: str, name: str, dim: int | None = None) -> np.ndarray:
    """Returns (n, d) contiguous float32 vectors; for cosine each is divided by its norm (zero stays zero).

    The unit vectors are rounded to float32 here, once, because an index stores them so; with them cosine is
    ip, and exact search and an index agree in every bit.
    Raises SpecError for an unknown space, InputError for another shape or dim, or non-finite values.
    """
    if space not in SPACES:
        raise SpecError(f"space is {space!r}; expected one of {', '.join(SPACES)}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] < 1 or vectors.shape[1] != (dim or vectors.shape[1]):
        raise InputError(f"{name} have shape {vectors.shape}; expected (n, {dim or 'd'})")
    if not np.isfinite(vectors).all():
        raise InputError(f"{name} hold NaN or infinite values; expected finite float32")
    if space != "cosine":
        return vectors
    unit = np.empty_like(vectors)
    step = max(1, _FLOATS_PER_BLOCK // vectors.shape[1])
    for first in range(0, len(vectors), step):
        wide = vectors[first : first + step].astype(np.float64)
        norm = np.sqrt((wide * wide).sum(axis=-1, keepdims=True))
        unit[first : first + step] = wide / np.maximum(norm, _SMALLEST_NORM)
    return unit


def check_ids(trajectory_ids: np.ndarray, *, num_keys: int) -> np.ndarray:
    """Returns the ids as (n,) int64. Raises InputError for another length or negative ids: -1 is padding."""
    ids = np.asarray(trajectory_ids)
    if ids.shape != (num_keys,) or (num_keys and ids.dtype.kind not in "iu"):
        raise InputError(f"got ids {ids.dtype} {ids.shape}; expected one integer for each of {num_keys} keys")
    ids = ids.astype(np.int64)
    if num_keys and ids.min() < 0:
        raise InputError(f"got trajectory id {ids.min()}; expected ids of 0 and above")
    return ids


def pair_distances(
    queries: np.ndarray, keys: np.ndarray, query: np.ndarray, key: np.ndarray, *, space: str
) -> np.ndarray:
    """Returns the distance of queries[query[i]] and keys[key[i]] for each i, (p,) float32.

    Each is a float64 sum along one contiguous row, rounded once: its bits depend on the two vectors only.
    queries: (q, d) and keys: (n, d) float32 from prepare_vectors; query, key: (p,) int.
    """
    distance = np.empty(len(query), dtype=np.float32)
    step = max(1, _FLOATS_PER_BLOCK // queries.shape[1])
    for p0 in range(0, len(query), step):
        part = slice(p0, p0 + step)
        a, b = queries.take(query[part], axis=0), keys.take(key[part], axis=0)
        if space == "l2":
            gap = np.subtract(a, b, dtype=np.float64)
            exact = np.square(gap, out=gap).sum(axis=-1)
        else:
            exact = 1.0 - np.multiply(a, b, dtype=np.float64).sum(axis=-1)
        with np.errstate(over="ignore"):
            distance[part] = exact
    return distance


def _propose(keys: np.ndarray, queries: np.ndarray, num_neighbors: int, space: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (query, key) index pairs, (p,) each, that surely contain each query's k nearest of this block.

    With e a bound on the error of the float64 product, the k-th true distance is at most t + e, where t is
    the k-th approximate one. A key can round to a float32 no larger than that only if its approximate
    distance is at most t + 2e plus float32 spacings; all of these are proposed.
    """
    a, b = queries.astype(np.float64), keys.astype(np.float64)
    a_squared, b_squared = (a * a).sum(axis=-1), (b * b).sum(axis=-1)
    product = a @ b.T
    if space == "l2":
        approximate = a_squared[:, None] + b_squared[None, :] - 2.0 * product
        scale = np.square(np.sqrt(a_squared) + np.sqrt(b_squared.max()))
    else:
        approximate = 1.0 - product
        scale = 1.0 + np.sqrt(a_squared * b_squared.max())
    error = 8 * (keys.shape[1] + 8) * np.finfo(np.float64).eps * scale
    if num_neighbors < len(keys):
        kth = np.partition(approximate, num_neighbors - 1, axis=1)[:, num_neighbors - 1]
        spacing = 4 * np.finfo(np.float32).eps * (np.abs(kth) + error) + np.finfo(np.float32).tiny
        return np.nonzero(approximate <= (kth + 2 * error + spacing)[:, None])
    return np.nonzero(np.ones_like(approximate, dtype=bool))
