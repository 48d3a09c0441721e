"""A measured search answers as the search inside it."""

import numpy as np

from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard
from rapid_dist.metrics import catalog
from rapid_dist.metrics.steps import MeasuredSearch
from tests.metrics.recorded import kept_recorder


def small_search():
    keys = np.eye(4, dtype=np.float32)
    column = np.arange(4)
    shard = OpenShard(
        keys=keys,
        trajectory_id=column.astype(np.int64),
        label=column.astype(np.int32),
        prototype=column.astype(np.int32),
        value=keys.astype(np.float16),
    )
    return KnowledgeBaseSearch([shard], space="l2", method="exact")


def test_answers_are_those_of_the_search_and_queries_are_counted():
    recorder, kept = kept_recorder()
    plain, queries = small_search(), np.eye(4, dtype=np.float32)[:3]
    measured = MeasuredSearch(plain, recorder, "sample")
    found = measured.query(queries, num_neighbors=2)
    np.testing.assert_array_equal(found.trajectory_id, plain.query(queries, num_neighbors=2).trajectory_id)
    within = measured.query_within(queries, num_neighbors=1, column="label", allowed=np.array([3, 2, 1]))
    np.testing.assert_array_equal(within.trajectory_id[:, 0], [3, 2, 1])
    assert kept.of(catalog.QUERIES, "sample") == [3, 3]
    assert len(kept.of(catalog.QUERY_SECONDS, "sample")) == 2
    assert (len(measured), measured.dim) == (4, 4)
    np.testing.assert_array_equal(measured.values_of(np.array([2])), plain.values_of(np.array([2])))
