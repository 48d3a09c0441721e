"""rapid-dist bench kb: a table for people, one object for programs, one line for mistakes."""

import json

import pytest

from rapid_dist.bench import contenders as faiss_peers

SMALL = (
    *("bench", "kb", "--keys", 300, "--dim", 8, "--gaussian-keys", 0, "--shards", "1,2", "--num-probes", "1"),
    *("--queries", 20, "--rounds", 1, "--threads", 1),
)


@pytest.fixture(autouse=True)
def no_faiss(monkeypatch):
    monkeypatch.setattr(faiss_peers, "is_available", lambda: False)


def test_json_is_the_last_line_and_progress_is_on_stderr(call):
    result = call(*SMALL, "--json")
    assert result.exit_code == 0
    plain = json.loads(result.stdout.splitlines()[-1])
    assert {"recall_at_1", "recall_at_10", "speedup_over_brute_force", "rate_over_plain_hnswlib"} <= plain.keys()
    assert len(plain["rows"]) == 5
    assert "plain hnswlib" in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_the_table_has_the_settings_below_it(call):
    lines = call(*SMALL).stdout.splitlines()
    assert lines[0].split()[:3] == ["data", "keys", "method"]
    assert sum(line.startswith("clustered") for line in lines) == 5
    assert any(line.startswith("M 16, ef_construction 100, ef_search 100") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--keys", 0), "keys is 0"),
        (("--keys", 500), "16 shards"),
        (("--dim", 1), "dim is 1"),
        (("--shards", "0"), "shards"),
        (("--ef-search", 0), "ef_search is 0"),
        (("--threads", 0), "num_threads is 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line_before_anything_is_drawn(refused, arguments, said):
    assert said in refused("bench", "kb", *arguments)


def test_a_list_that_is_not_numbers_is_refused(call):
    result = call("bench", "kb", "--shards", "1;4")
    assert result.exit_code == 2
    assert "whole numbers" in result.stderr


def test_interrupted_says_what_stands_and_prints_no_result(call, monkeypatch):
    def interrupted(settings, *, say_fn):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("rapid_dist.bench.kb.run_kb_bench", interrupted)
    result = call(*SMALL, "--json")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1].startswith("rapid-dist: interrupted")
