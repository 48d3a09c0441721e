"""A map over parts: in order, resumable, with our errors as they are and bugs with their traceback."""

from __future__ import annotations

import secrets
from collections import Counter

import pytest

from rapid_dist.errors import BudgetExceededError, InputError, RapidDistError, SpecError
from rapid_dist.runtime.parts import map_parts
from rapid_dist.storage.store import Store


def make_counted(folder, failures):
    """fn(index) -> its square, leaving a file per call; raises failures[index] instead."""

    def count(index):
        Store(folder).write_bytes(f"{index}-{secrets.token_hex(8)}", b"")
        if index in failures:
            kind, message = failures[index]
            raise kind(message)
        return {"square": index * index, "word": "Straße"}

    return count


def make_nothing(message):
    raise SpecError(message)


def calls(folder):
    """How often each part was called."""
    return Counter(int(name.split("-")[0]) for name in Store(folder).list_files())


@pytest.fixture
def run_map(ray_cluster, tmp_path):
    def run(failures=(), *, num_parts=5, keeps_state=True):
        return map_parts(
            make_counted,
            (str(tmp_path / "calls"), dict(failures)),
            num_parts,
            store=Store(tmp_path / "out"),
            name="count",
            num_actors=2,
            keeps_state=keeps_state,
        )

    return run


@pytest.mark.parametrize("keeps_state", [True, False])
def test_results_come_in_the_order_of_the_parts(run_map, tmp_path, keeps_state):
    assert run_map(keeps_state=keeps_state) == [{"square": i * i, "word": "Straße"} for i in range(5)]
    assert calls(tmp_path / "calls") == dict.fromkeys(range(5), 1)


def test_the_error_of_the_lowest_failed_part_arrives_as_itself_and_finished_parts_are_not_redone(run_map, tmp_path):
    failures = {3: (InputError, "part three is corrupt"), 1: (BudgetExceededError, "over the target")}
    with pytest.raises(BudgetExceededError, match=r"^over the target$"):
        run_map(failures)
    assert [r["square"] for r in run_map()] == [0, 1, 4, 9, 16]
    again = calls(tmp_path / "calls")
    # The parts that failed were called twice, all others once: an error of ours is not retried either.
    assert again == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1}
    run_map()
    assert calls(tmp_path / "calls") == again


def test_parts_beyond_those_asked_for_are_left_out(run_map):
    run_map(num_parts=3)
    assert [r["square"] for r in run_map(num_parts=2)] == [0, 1]


@pytest.mark.parametrize("keeps_state", [True, False])
def test_an_error_while_preparing_arrives_as_itself(ray_cluster, tmp_path, keeps_state):
    with pytest.raises(SpecError, match=r"^no such model$"):
        map_parts(
            make_nothing,
            ("no such model",),
            2,
            store=Store(tmp_path),
            name="n",
            num_actors=2,
            keeps_state=keeps_state,
        )


@pytest.mark.parametrize("keeps_state", [True, False])
def test_a_bug_keeps_its_traceback_and_is_not_marked_finished(run_map, tmp_path, keeps_state):
    with pytest.raises(Exception, match=r"in count(?s:.)*ZeroDivisionError: a bug") as caught:
        run_map({1: (ZeroDivisionError, "a bug")}, num_parts=2, keeps_state=keeps_state)
    assert not isinstance(caught.value, RapidDistError)
    assert [r["square"] for r in run_map(num_parts=2)] == [0, 1]
