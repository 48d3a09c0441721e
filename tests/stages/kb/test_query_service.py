"""The query service answers as a search in this process does, also while its actors are killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rapid_dist.errors import ArtifactError, InputError, SpecError
from rapid_dist.knowledge_base.files import open_knowledge_base, shard_files
from rapid_dist.runtime.query_service import BATCH_QUERIES, open_service, served_search
from rapid_dist.stages.knowledge_base import run_append, run_build_knowledge_base
from rapid_dist.stages.sample import run_sample
from rapid_dist.stages.train import run_train
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from tests.stages.kb.helpers import NUM_LABELS, SerialMaps, spec_with, write_dataset, write_pretrain

SPEC = spec_with(ef_search=20).knowledge_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path, patch = tmp_path_factory.mktemp("service"), pytest.MonkeyPatch()
    SerialMaps().install(patch)
    images = write_dataset(path / "images", parts=2, rows=300, first_id=7_000_000)
    store = Store(path / "base")
    manifest = run_build_knowledge_base(spec_with(ef_search=20), images, write_pretrain(path / "pretrain"), store)
    patch.undo()
    return store, manifest


@pytest.fixture(scope="module")
def service(ray_cluster, base):
    with open_service(SPEC, *base) as opened:
        yield opened


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(0).normal(size=(BATCH_QUERIES + 40, 8)).astype("f4")


def same(a, b):
    return np.array_equal(a.trajectory_id, b.trajectory_id) and a.distance.tobytes() == b.distance.tobytes()


def test_queries_have_the_answers_of_a_search_in_this_process(service, base, queries):
    search = open_knowledge_base(SPEC, *base)
    allowed = [{int(i) % NUM_LABELS, 3} for i in range(len(queries))]
    assert same(service.query(queries, num_neighbors=4), search.query(queries, num_neighbors=4))
    within = {"num_neighbors": 3, "column": "label", "allowed": allowed}
    assert same(service.query_within(queries, **within), search.query_within(queries, **within))
    one_each = {"num_neighbors": 3, "column": "prototype", "allowed": np.arange(len(queries)) % 5}
    assert same(service.query_within(queries, **one_each), search.query_within(queries, **one_each))
    assert service.query(queries[:0], num_neighbors=2).trajectory_id.shape == (0, 2)


def test_routed_exact_queries_to_replicas_have_the_answers_of_a_search_in_this_process(ray_cluster, base, queries):
    spec = replace(SPEC, method="exact", num_probes=2)
    with open_service(spec, *base, num_replicas=2) as service:
        routed = service.query(queries, num_neighbors=4)
    assert same(routed, open_knowledge_base(spec, *base).query(queries, num_neighbors=4))
    full = open_knowledge_base(replace(spec, num_probes=None), *base).query(queries, num_neighbors=4)
    assert not same(routed, full)


def test_look_ups_are_those_of_a_search_in_this_process(service, base, queries):
    search = open_knowledge_base(SPEC, *base)
    ids = search.query(queries[:50], num_neighbors=1).trajectory_id[:, 0]
    for name in ("values_of", "labels_of", "prototypes_of"):
        ours, theirs = getattr(service, name)(ids), getattr(search, name)(ids)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
        assert getattr(service, name)(ids[:0]).shape == theirs[:0].shape
    np.testing.assert_array_equal(service.count_labels(5, NUM_LABELS), search.count_labels(5, NUM_LABELS))


def test_wrong_questions_are_refused_as_they_are_in_this_process(service, queries):
    with pytest.raises(ArtifactError, match="not in the knowledge base") as caught:
        service.values_of(np.array([123_456_789]))
    assert "123456789" not in str(caught.value)  # it may be the neighbour of a private record
    with pytest.raises(SpecError, match="column"):
        service.query_within(queries, num_neighbors=1, column="value", allowed=[{1}] * len(queries))
    with pytest.raises(SpecError, match="num_neighbors"):
        service.query(queries, num_neighbors=0)
    for wrong in (queries[:, :3], queries * np.nan):
        with pytest.raises(InputError):
            service.query(wrong, num_neighbors=1)
    with pytest.raises(InputError, match="one a query"):
        service.query_within(queries, num_neighbors=1, column="label", allowed=[{1}])


def process_of(actor):
    import ray

    return ray.get(actor.__ray_call__.remote(lambda server: os.getpid()))


def test_an_actor_killed_under_load_is_replaced_and_no_query_is_lost_or_answered_twice(service, base, queries):
    expected = open_knowledge_base(SPEC, *base).query(queries[:8], num_neighbors=4)
    (victim,) = service._shards[1]
    killed = process_of(victim)

    def requests():
        """Sixty requests to every shard; the process of one is killed while some of its requests wait for it."""
        for i in range(60):
            if i == 20:
                os.kill(killed, signal.SIGKILL)
            for shard in range(len(service._shards)):
                yield shard, 0, "query", {"queries": queries[i % 8][None], "num_neighbors": 4}

    answers = list(service._answers(requests()))
    assert sorted(position for position, _ in answers) == list(range(60 * len(service._shards)))
    merged = service.query(queries[:8], num_neighbors=4)
    assert same(merged, expected)
    by_shard = {}
    for position, (ids, distance) in answers:
        key = position % len(service._shards), (position // len(service._shards)) % 8
        assert by_shard.setdefault(key, (ids.tolist(), distance.tolist())) == (ids.tolist(), distance.tolist())
    assert process_of(victim) != killed


def test_no_more_requests_are_on_their_way_than_the_actors_are_meant_to_hold(service, queries):
    sent = 0

    def requests():
        nonlocal sent
        for i in range(100):
            sent += 1
            yield i % len(service._shards), 0, "query", {"queries": queries[:1], "num_neighbors": 1}

    for answered, _ in enumerate(service._answers(requests())):
        assert sent - answered <= service._max_in_flight


def test_a_damaged_shard_is_named_when_the_service_opens(ray_cluster, base, tmp_path):
    import shutil

    store, manifest = base
    copy = Store(shutil.copytree(store.uri, tmp_path / "copy"))
    path = shard_files(manifest)[2].rows.path
    with open(copy.path(path), "r+b") as file:
        file.truncate(50)
    with pytest.raises(ArtifactError, match=path), open_service(SPEC, copy, manifest):
        pass


def test_the_spec_says_whether_a_service_is_started(base):
    with served_search(SPEC, *base) as search:
        assert search is None
    with served_search(replace(SPEC, serving="service"), None, None) as search:
        assert search is None


@pytest.fixture(scope="module")
def served_run(finished_run, tmp_path_factory):
    """Training and sampling through a service, over a base whose ids occur nowhere else; and where it all lies."""
    path, patch = tmp_path_factory.mktemp("served"), pytest.MonkeyPatch()
    SerialMaps().install(patch)
    images = write_dataset(path / "images", parts=1, rows=160, first_id=7_345_678_000, seed=2)
    spec = replace(
        finished_run.spec,
        knowledge_base=replace(finished_run.spec.knowledge_base, serving="service", label_map={}, num_probes=1),
    )
    base = Store(path / "base")
    pretrain = finished_run.store("pretrain")
    run_build_knowledge_base(spec, images, pretrain, base)
    stores = {"pretrain": pretrain, "knowledge_base": base}
    out = path / "out"
    run_train(spec, finished_run.private, **stores, ledger=Store(out / "ledger"), out=Store(out / "train"))
    run_sample(spec, **stores, train=Store(out / "train"), out=Store(out / "samples"))
    yield spec, stores, images, out
    patch.undo()


def test_training_and_sampling_through_a_service_finish(served_run):
    *_, out = served_run
    trained, sampled = (read_manifest(Store(out / name)) for name in ("train", "samples"))
    assert trained.facts["completed"]
    assert trained.spec["num_probes"] == 1
    assert sum(f.rows for f in sampled.files) == 40


def test_no_neighbour_of_a_private_query_is_logged_or_stored(served_run, capfd):
    """Ids of this base have ten digits that occur nowhere else; nobody but the base and its images may hold one."""
    import ray

    *_, out = served_run
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    files = [p for folder in (out, logs) for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 10
    ids = np.arange(7_345_678_000, 7_345_678_160)
    binary = [int(i).to_bytes(8, "little") for i in ids]
    for file in files:
        data = file.read_bytes()
        assert b"73456780" not in data, file
        assert b"73456781" not in data, file
        assert not any(b in data for b in binary), file


def test_sampling_refuses_a_base_that_changed_after_training(served_run, tmp_path):
    spec, stores, _, out = served_run
    import shutil

    grown = Store(shutil.copytree(stores["knowledge_base"].uri, tmp_path / "grown"))
    more = write_dataset(tmp_path / "more", parts=1, rows=20, seed=8)
    run_append(spec, more, stores["pretrain"], grown)
    with pytest.raises(ArtifactError, match=r"is now version 2 of the knowledge base.*train with it in a new --out"):
        run_sample(spec, stores["pretrain"], grown, Store(out / "train"), Store(tmp_path / "samples"))
    assert not (tmp_path / "samples").exists()
