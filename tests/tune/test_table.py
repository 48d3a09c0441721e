import re

import pytest

from rapid_dist.tune.wording import LiveTable, short_names, table_lines

from .example_rows import make_row, make_rows


def test_short_names_tell_keys_from_each_other_and_from_the_columns():
    keys = ["schedule.kind", "denoiser.kind", "schedule.split_step", "training.step", "privacy.epsilon", "x"]
    assert short_names(keys) == {
        "schedule.kind": "schedule.kind",
        "denoiser.kind": "denoiser.kind",
        "schedule.split_step": "split_step",
        "training.step": "training.step",
        "privacy.epsilon": "privacy.epsilon",
        "x": "x",
    }


def test_the_table_is_the_best_first_with_aligned_columns():
    rows = [
        make_row(0, score=0.5, steps=100, step=100, seconds=61.0),
        make_row(1, score=None, status="failed", proposal={"schedule.split_step": 50}, steps=100),
        make_row(2, score=0.75, steps=100, step=100, seconds=3.0),
    ]
    assert table_lines(rows, "proxy_accuracy") == [
        "3 trials by accuracy on held-out pretend-private images; higher is better",
        "trial  status     score  split_step     step       time",
        "t0002  finished  0.7500         700  100/100      3.0 s",
        "t0000  finished  0.5000         700  100/100  1 min 1 s",
        "t0001  failed         -          50    0/100          -",
    ]


def test_top_says_how_many_are_left_out():
    lines = table_lines(make_rows(12), "public_fid", top=3)
    assert lines[0].startswith("best 3 of 12 trials by minus the Frechet distance")
    assert len(lines) == 5


def test_no_trials_make_a_table_without_rows():
    assert table_lines([], "proxy_accuracy")[0].startswith("0 trials")


def test_epsilon_is_a_column_only_where_something_was_spent_and_may_be_shown():
    rows = [make_row(epsilon=1.25)]
    assert "epsilon" in table_lines(rows, "noisy_accuracy")[1]
    assert "1.25" in table_lines(rows, "noisy_accuracy")[2]
    assert "epsilon" not in "".join(table_lines(rows, "noisy_accuracy", show_epsilon=False))
    assert "epsilon" not in "".join(table_lines([make_row()], "noisy_accuracy"))


def test_long_and_hostile_values_stay_in_one_short_cell():
    lines = table_lines([make_row(proposal={"a.x": "line\nbreak \x1b[31m" + "y" * 90})], "proxy_accuracy")
    assert len(lines) == 3
    assert "\x1b" not in lines[2]
    assert len(lines[2]) < 90


def run_through(table):
    table.began(make_row(0, score=None, status="running"))
    table.rung("t0000", 25, 0.3172)
    table.ended(make_row(0, score=0.6172))
    table.began(make_row(1, score=None, status="running", attempts=1))
    table.ended(make_row(1, score=0.5))
    table.ended(make_row(2, score=None, status="failed", reason="no\nroom"))


def test_the_live_table_says_a_line_for_each_event_with_the_best_so_far():
    said = []
    run_through(LiveTable("tune", num_trials=3, say_fn=said.append))
    assert [re.sub(r"\s+", " ", line) for line in said] == [
        "tune t0000 began: split_step 700",
        "tune t0000 at step 25: 0.3172",
        "tune t0000 finished: 0.6172 1/3 done best 0.6172 (t0000)",
        "tune t0001 began again (attempt 2): split_step 700",
        "tune t0001 finished: 0.5000 2/3 done best 0.6172 (t0000)",
        "tune t0002 failed: no room 3/3 done best 0.6172 (t0000)",
    ]


def test_the_live_table_goes_on_from_what_ended_before():
    said = []
    table = LiveTable("tune", num_trials=4, say_fn=said.append)
    table.goes_on(
        [make_row(0, score=0.7), make_row(1, score=None, status="running"), make_row(2, score=0.9, status="stopped")]
    )
    assert said == []
    table.ended(make_row(1, score=0.5))
    assert re.sub(r"\s+", " ", said[0]) == "tune t0001 finished: 0.5000 3/4 done best 0.7000 (t0000)"


@pytest.mark.parametrize("times", [1, 5])
def test_a_secret_live_table_says_the_same_whatever_happens(times):
    """So the output tells neither how many trials ran nor what they scored."""
    said = []
    table = LiveTable("tune", num_trials=3, secret=True, say_fn=said.append)
    for _ in range(times):
        run_through(table)
    assert len(said) == 1
    assert not re.search(r"\d", said[0])


def test_the_live_table_leaves_stdout_alone(capsys):
    run_through(LiveTable("tune"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 6
