"""A base opened by its folder answers as the search beneath it does, and pads what it does not have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rapid_dist import knowledge_base, layout
from rapid_dist.errors import ArtifactError, InputError, SpecError
from rapid_dist.knowledge_base.library import KnowledgeBase, find_base
from rapid_dist.knowledge_base.search import KnowledgeBaseSearch, OpenShard
from rapid_dist.storage.store import Store

NUM_ROWS, DIM, VALUE_SHAPE = 12, 4, (1, 2, 2)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return {
        "keys": rng.standard_normal((NUM_ROWS, DIM)).astype(np.float32),
        "trajectory_id": 10 * np.arange(NUM_ROWS),
        "label": np.arange(NUM_ROWS, dtype=np.int32) % 3 - 1,
        "prototype": np.zeros(NUM_ROWS, np.int32),
        "value": rng.standard_normal((NUM_ROWS, *VALUE_SHAPE)).astype(np.float16),
    }


@pytest.fixture
def base(rows):
    search = KnowledgeBaseSearch([OpenShard(**rows)], space="l2", method="exact")
    return KnowledgeBase(Store("/nowhere"), SimpleNamespace(facts={"version": 2}), search)


def test_each_row_is_its_own_nearest_neighbour_with_its_label_and_value(base, rows):
    found = base.query(rows["keys"], num_neighbors=1)
    assert len(found) == NUM_ROWS
    np.testing.assert_array_equal(found.ids[:, 0], rows["trajectory_id"])
    np.testing.assert_array_equal(found.distances[:, 0], np.zeros(NUM_ROWS))
    np.testing.assert_array_equal(found.labels[:, 0], rows["label"])
    np.testing.assert_array_equal(found.values[:, 0], rows["value"].astype(np.float32))


def test_one_feature_is_one_query(base, rows):
    found = base.query(rows["keys"][3].tolist(), num_neighbors=2)
    assert (found.ids.shape, found.values.shape) == ((1, 2), (1, 2, *VALUE_SHAPE))
    assert found.ids[0, 0] == 30
    assert found.distances[0, 0] <= found.distances[0, 1]


def test_more_neighbours_than_trajectories_are_padded(base):
    found = base.query(np.zeros((2, DIM)), num_neighbors=NUM_ROWS + 3)
    assert (found.ids[:, NUM_ROWS:] == -1).all()
    assert np.isinf(found.distances[:, NUM_ROWS:]).all()
    assert (found.labels[:, NUM_ROWS:] == -1).all()
    assert np.isnan(found.values[:, NUM_ROWS:]).all()
    assert np.isfinite(found.values[:, :NUM_ROWS]).all()


def test_no_query_is_no_answer(base):
    assert base.query(np.empty((0, DIM)), num_neighbors=2).values.shape == (0, 2, *VALUE_SHAPE)


@pytest.mark.parametrize(
    ("features", "num_neighbors", "kind"),
    [
        (np.zeros((2, DIM + 1)), 1, InputError),
        (np.full((1, DIM), np.nan), 1, InputError),
        (np.zeros(DIM), 0, SpecError),
    ],
)
def test_features_of_another_base_and_no_neighbours_are_refused(base, features, num_neighbors, kind):
    with pytest.raises(kind):
        base.query(features, num_neighbors=num_neighbors)


def test_what_a_base_says_of_itself(base):
    assert (len(base), base.dim, base.value_shape, base.space, base.version) == (NUM_ROWS, DIM, VALUE_SHAPE, "l2", 2)
    assert repr(base) == "KnowledgeBase(12 trajectories of 4 numbers in l2, '/nowhere')"


def test_a_folder_without_a_base_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="run the stage 'build_kb' first"):
        knowledge_base.open(tmp_path)


@pytest.mark.parametrize("method", ["hnsw", "exact"])
def test_a_base_opens_by_its_folder_or_its_runs(finished_run, method):
    of_run = knowledge_base.open(finished_run.out.uri, method=method)
    own = knowledge_base.open(finished_run.knowledge_base, method=method)
    features = np.random.default_rng(1).standard_normal((5, of_run.dim))
    first, second = (base.query(features, num_neighbors=4) for base in (of_run, own))
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.values, second.values)
    store, manifest = find_base(finished_run.out.uri)
    assert store.uri.endswith(layout.KNOWLEDGE_BASE)
    assert len(of_run) == manifest.facts["num_trajectories"]


def test_a_base_is_asked_with_fewer_probes(finished_run):
    found = knowledge_base.open(finished_run.out.uri, num_probes=1).query(np.zeros(8), num_neighbors=2)
    assert (found.ids >= 0).all()
    with pytest.raises(SpecError):
        knowledge_base.open(finished_run.out.uri, method="nearest")
