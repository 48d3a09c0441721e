"""The harness end to end on small bases: what it measures agrees with what was found another way."""

import json

import numpy as np
import pytest

from rapid_dist.bench import contenders as faiss_peers
from rapid_dist.bench.contenders import PlainHnsw
from rapid_dist.bench.kb import run_kb_bench
from rapid_dist.bench.settings import (
    BASE,
    BRUTE_FORCE,
    CLUSTERED,
    FAISS_HNSW,
    FAISS_IVF,
    GAUSSIAN,
    HEADER,
    PLAIN,
    BenchSettings,
    IndexSettings,
    Row,
    best_base,
    draw_keys,
    summarize,
    summary_lines,
)
from rapid_dist.knowledge_base.exact import search_exact

SETTINGS = BenchSettings(
    keys=1500,
    dim=16,
    sizes=(600, 1500),
    gaussian_keys=600,
    shards=(1, 3),
    num_probes=(1, 5),
    num_queries=80,
    rounds=2,
    index=IndexSettings(M=4, ef_construction=20, ef_search=12),
)


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def rows(said):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_peers, "is_available", lambda: False)
        return list(run_kb_bench(SETTINGS, say_fn=said.append))


def named(rows, **wanted):
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def test_every_size_has_its_peers_and_layouts_and_the_largest_comes_last(rows):
    layouts = ["", "", "1 shard", "3 shards, all", "1 of 3 shards"]
    assert [(r.data, r.keys) for r in rows] == 5 * [(CLUSTERED, 600)] + 3 * [(GAUSSIAN, 600)] + 5 * [(CLUSTERED, 1500)]
    assert [r.layout for r in rows] == [*layouts, *layouts[:3], *layouts]
    assert [r.method for r in rows[:5]] == [BRUTE_FORCE, PLAIN, BASE, BASE, BASE]


def test_recall_is_that_of_the_same_index_counted_by_hand(rows):
    keys, queries = (draw_keys(CLUSTERED, n, dim=16, seed=0, role=r) for n, r in ((1500, "keys"), (80, "queries")))
    truth = search_exact(keys, np.arange(1500), queries, num_neighbors=10, space="cosine").trajectory_id
    found = PlainHnsw(keys, SETTINGS.index, num_threads=1).ids(queries, 10)
    (row,) = named(rows, keys=1500, method=PLAIN)
    assert row.recall_at_1 == pytest.approx((found[:, 0] == truth[:, 0]).mean())
    hits = [len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    assert row.recall_at_k == pytest.approx(np.mean(hits))
    assert row.recall_at_k < 1


def test_brute_force_is_exact_and_the_measure_of_all(rows):
    for row in named(rows, method=BRUTE_FORCE):
        assert row.over_brute_force == 1
        assert row.recall_at_1 == 1
        assert (row.build_rate, row.build_seconds, row.disk_bytes) == (0, 0, 0)
    assert all(row.over_plain == 1 for row in named(rows, method=PLAIN))
    assert all(min(r.query_rate, r.clock_query_rate, r.over_brute_force, r.over_plain) > 0 for r in rows)


def test_fewer_probes_find_no_more(rows):
    full, routed = named(rows, keys=1500, num_shards=3)
    assert routed.recall_at_k < full.recall_at_k
    assert full.disk_bytes == routed.disk_bytes > 1500 * 4 * 16


def test_without_faiss_its_rows_are_left_out_with_a_note(rows, said):
    assert not named(rows, method=FAISS_HNSW) + named(rows, method=FAISS_IVF)
    assert said.count(faiss_peers.MISSING_NOTE) == 2


def test_with_faiss_its_rows_are_there():
    pytest.importorskip("faiss")
    few = BenchSettings(keys=400, dim=8, shards=(1,), num_queries=20, rounds=1, index=SETTINGS.index)
    rows = list(run_kb_bench(few, say_fn=lambda line: None))
    assert [row.method for row in rows][-2:] == [FAISS_IVF, FAISS_HNSW]
    assert rows[-2].layout.endswith("cells")


def test_summary_is_the_best_layout_of_the_largest_base(rows):
    plain = json.loads(json.dumps(summarize(rows, SETTINGS)))
    best = best_base(rows, data=CLUSTERED, keys=1500)
    assert plain["recall_at_1"] == best.recall_at_1
    assert plain["speedup_over_brute_force"] == best.over_brute_force
    assert plain["rate_over_plain_hnswlib"] == best.over_plain
    assert (plain["keys"], plain["layout"]) == (1500, best.layout)
    assert len(plain["rows"]) == len(rows)
    assert plain["settings"]["index"]["ef_search"] == 12


def test_lines_name_the_worst_case_and_fit_the_header(rows):
    assert any("worst case" in row.line() for row in rows)
    assert {len(row.line()) for row in rows} == {len(HEADER)}
    assert summary_lines(rows, SETTINGS)[0].startswith("1,500 clustered keys of 16 dims, best layout: ")


def a_row(**change):
    row = {"data": CLUSTERED, "keys": 100, "method": BASE, "num_shards": 4, "num_probes": 2, "query_rate": 50.0}
    row |= {"clock_query_rate": 50.0, "recall_at_1": 1.0, "recall_at_k": 1.0, "over_brute_force": 9.0}
    return Row(**{**row, "over_plain": 1.0, "build_rate": 10.0, "memory_bytes": 3000, "disk_bytes": 2000, **change})


def test_the_best_layout_is_the_fastest_that_finds_enough_and_else_the_one_that_finds_most():
    fast, good, slow = (
        a_row(over_plain=speed, recall_at_1=recall) for speed, recall in ((3, 0.98), (2, 0.99), (1, 1.0))
    )
    assert best_base([fast, good, slow], data=CLUSTERED, keys=100) is good
    assert best_base([fast, a_row(over_plain=5, recall_at_1=0.97)], data=CLUSTERED, keys=100) is fast
