"""Exact search is the same search however the rows are split, ordered and merged."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rapid_dist.knowledge_base.clusters import cluster_shards, fit_clusters, hash_shards
from rapid_dist.knowledge_base.exact import SPACES, search_exact
from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard

# Few distinct numbers, so that distances tie and ids must decide.
keys_of = st.integers(1, 40).flatmap(lambda n: arrays(np.float32, (n, 3), elements=st.sampled_from([-2, -1, 0, 1, 3])))


@settings(max_examples=60, deadline=None)
@given(keys_of, st.integers(1, 12), st.sampled_from(SPACES), st.integers(1, 8), st.integers(0, 2**31), st.booleans())
def test_exact_search_does_not_depend_on_the_number_of_shards(keys, num_shards, space, count, seed, by_cluster):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10 * len(keys))[: len(keys)]
    queries = rng.integers(-3, 4, (5, 3)).astype("f4")
    truth = search_exact(keys, ids, queries, num_neighbors=count, space=space)
    if by_cluster:
        clusters = fit_clusters(keys, num_shards=num_shards, space=space, seed=0)
        shard = cluster_shards(keys, clusters, space=space)
    else:
        shard = hash_shards(ids, num_shards)
    columns = {"label": np.zeros(len(keys), "i4"), "prototype": np.zeros(len(keys), "i4")}
    shards = [
        OpenShard(
            keys=keys[rows],
            trajectory_id=ids[rows],
            value=np.zeros((len(rows), 1), "f2"),
            **{name: column[rows] for name, column in columns.items()},
        )
        for rows in (rng.permutation(np.flatnonzero(shard == s)) for s in rng.permutation(np.unique(shard)))
    ]
    found = KnowledgeBaseSearch(shards, space=space, method="exact").query(queries, num_neighbors=count)
    assert found.trajectory_id.tolist() == truth.trajectory_id.tolist()
    assert found.distance.tobytes() == truth.distance.tobytes()
