import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from rapid_dist.bench import contenders
from rapid_dist.bench import contenders as faiss_peers
from rapid_dist.bench.contenders import BruteForce, PlainHnsw, build_base
from rapid_dist.bench.settings import CLUSTERED, IndexSettings, draw_keys
from rapid_dist.knowledge_base.exact import search_exact

SETTINGS = IndexSettings(M=8, ef_construction=60, ef_search=60)


@pytest.fixture(autouse=True)
def one_thread():
    """k-means over threads that wait for each other takes many times as long on shared cores."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def drawn():
    """3,000 keys of 24 dimensions, 100 queries, and the ids of the 10 nearest of each."""
    keys, queries = (draw_keys(CLUSTERED, n, dim=24, seed=0, role=role) for n, role in ((3000, "k"), (100, "q")))
    truth = search_exact(keys, np.arange(3000), queries, num_neighbors=10, space="cosine")
    return keys, queries, truth.trajectory_id


def share_found(ids, truth):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids.tolist(), truth.tolist(), strict=True)])


@pytest.mark.parametrize(("keys_per_block", "queries_per_block"), [(16384, 256), (7, 33), (500, 1)])
def test_brute_force_finds_the_true_neighbours_in_order_whatever_the_blocks(
    drawn, monkeypatch, keys_per_block, queries_per_block
):
    keys, queries, truth = drawn
    monkeypatch.setattr(contenders, "_KEYS_PER_BLOCK", keys_per_block)
    monkeypatch.setattr(contenders, "_QUERIES_PER_BLOCK", queries_per_block)
    found = BruteForce(keys).ids(queries, 10)
    # A float32 product may swap two keys whose distances differ by its rounding.
    assert share_found(found, truth) > 0.998
    assert (found[:, 0] == truth[:, 0]).mean() > 0.98
    assert BruteForce(keys[:4]).ids(queries, 10).min() == -1


def test_a_plain_index_and_every_layout_of_the_base_find_neighbours(drawn):
    keys, queries, truth = drawn
    assert share_found(PlainHnsw(keys, SETTINGS, num_threads=1).ids(queries, 10), truth) > 0.98
    for num_shards in (1, 3):
        base = build_base(keys, SETTINGS, num_shards=num_shards, num_threads=2)
        assert len(base.shards) == num_shards
        assert np.array_equal(np.sort(np.concatenate([s.trajectory_id for s in base.shards])), np.arange(3000))
        assert share_found(base.ids(queries, 10), truth) > 0.98


def test_more_probes_find_more_and_all_probes_are_full_fan_out(drawn):
    keys, queries, truth = drawn
    base = build_base(keys, SETTINGS, num_shards=6, num_threads=1)
    recalls = [share_found(base.routed(p).ids(queries, 10), truth) for p in (1, 2, 6)]
    assert recalls == sorted(recalls)
    assert recalls[0] > 0.4
    assert np.array_equal(base.routed(6).ids(queries, 10), base.ids(queries, 10))


def test_file_bytes_are_those_of_the_files(drawn):
    base = build_base(drawn[0], SETTINGS, num_shards=3, num_threads=1)
    assert base.file_bytes == sum(len(shard.index.to_bytes()) for shard in base.shards)


def test_faiss_peers_find_neighbours_and_ivf_probes_no_more_than_it_needs(drawn):
    pytest.importorskip("faiss")
    keys, queries, truth = drawn
    assert share_found(faiss_peers.FaissHnsw(keys, SETTINGS, num_threads=1).ids(queries, 10), truth) > 0.95
    ivf = faiss_peers.FaissIvf(keys, SETTINGS, num_threads=1)
    ivf.choose_probes(queries, truth[:, 0], recall=0.95)
    assert 1 <= ivf.num_probes <= ivf.num_lists == 60
    assert (ivf.ids(queries, 10)[:, 0] == truth[:, 0]).mean() >= 0.95
    ivf.choose_probes(queries, truth[:, 0], recall=2.0)
    assert ivf.num_probes == ivf.num_lists
