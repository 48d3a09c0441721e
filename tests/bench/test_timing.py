import numpy as np
import pytest

from rapid_dist.bench.timing import Rates, measured, ratio, take_turns

MEGABYTE = 1 << 20


def test_contenders_take_turns_in_an_order_that_is_reversed_each_round():
    turns = []

    def contender(name):
        return lambda: turns.append(name) or 7

    rates = take_turns([contender(name) for name in "abc"], rounds=3)
    assert "".join(turns) == "abc" + "abc" + "cba" + "abc"
    assert [len(r.per_core) for r in rates] == [len(r.on_clock) for r in rates] == [3, 3, 3]


def test_rate_counts_what_the_contender_says_it_did():
    work = np.random.default_rng(0).normal(size=(400, 400))

    def did(count):
        return lambda: count * bool(np.linalg.norm(work @ work))

    one, many = take_turns([did(1), did(1000)], rounds=5)
    assert ratio(many, one) > 100


def test_ratio_is_the_median_of_quotients_in_the_same_round():
    ours, theirs = Rates(per_core=[10.0, 3.0, 8.0]), Rates(per_core=[5.0, 1.0, 8.0])
    assert ratio(ours, theirs) == 2.0
    assert ours.median_per_core() == 8.0


def test_memory_kept_and_memory_let_go_are_told_apart():
    with measured() as cost:
        gone = np.ones(96 * MEGABYTE, np.uint8)
        del gone
        kept = np.ones(32 * MEGABYTE, np.uint8)
    assert kept.sum() == 32 * MEGABYTE
    assert 24 * MEGABYTE < cost.kept_bytes < 64 * MEGABYTE
    assert cost.peak_bytes > 80 * MEGABYTE
    assert cost.seconds > 0
    assert cost.core_seconds > 0


def test_cost_is_filled_in_when_the_block_ends_only():
    with measured() as cost:
        assert cost.seconds == 0
    with pytest.raises(ZeroDivisionError), measured():
        raise ZeroDivisionError
