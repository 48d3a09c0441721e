"""Public clusters of the keys: prototypes route queries and restrict results to alike trajectories."""

from __future__ import annotations

import numpy as np

from rapid_dist.errors import InputError, SpecError
from rapid_dist.retrieval.exact import prepare_vectors, search_exact


def fit_prototypes(keys: np.ndarray, *, num_prototypes: int, seed: int) -> np.ndarray:
    """Returns k-means centroids in l2, (m, d) float32, in lexicographic order.

    m is num_prototypes, or fewer when there are not that many distinct keys or centroids: read the number
    off the result. The result depends on the keys as a set of rows and on the seed, not on their order.
    Keys must be public: a centroid says much about the keys in it. keys: (n, d), n >= 1; all are held and
    sorted in memory, so pass a sample of a large base.
    Raises InputError without keys or for non-finite ones, SpecError when num_prototypes < 1.
    """
    if num_prototypes < 1:
        raise SpecError(f"num_prototypes is {num_prototypes}; expected at least 1")
    keys = prepare_vectors(keys, space="l2", name="keys")
    if len(keys) == 0:
        raise InputError("got no keys; expected at least one to make prototypes of")
    # Adding zero turns -0.0 into 0.0, which are one key but two bit patterns.
    distinct, counts = np.unique(keys + np.float32(0), axis=0, return_counts=True)
    if len(distinct) <= num_prototypes:
        return distinct
    # Here, because whoever only searches a base needs neither.
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    kmeans = MiniBatchKMeans(num_prototypes, random_state=seed, n_init=3, batch_size=1024)
    # Batches this small gain nothing from threads, and threads that wait for each other on shared cores cost much.
    with threadpool_limits(1):
        kmeans.fit(distinct, sample_weight=counts)
    return np.unique(kmeans.cluster_centers_.astype(np.float32) + np.float32(0), axis=0)


def assign_prototypes(keys: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns the index of the nearest centroid in l2 of each key, (n,) int32, ties to the lower index.

    One key's prototype does not depend on the other keys, so shards may be assigned apart.
    keys: (n, d); centroids: (m, d), m >= 1. Raises InputError for other shapes or non-finite values.
    """
    if len(centroids) == 0:
        raise InputError("got no centroids; expected at least one from fit_prototypes")
    nearest = search_exact(centroids, np.arange(len(centroids)), keys, num_neighbors=1, space="l2")
    return nearest.trajectory_id[:, 0].astype(np.int32)
