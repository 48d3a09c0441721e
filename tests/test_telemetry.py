import numpy as np
import pytest

from rapid_dist import telemetry
from rapid_dist.telemetry import Progress, format_seconds, peak_memory_bytes, say


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(telemetry, "time", clock)
    return clock


def test_lines_go_to_stderr_and_stdout_stays_free(capsys):
    say("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_a_line_is_said_at_most_every_few_seconds_and_always_at_the_end(clock):
    lines = []
    progress = Progress("train", 100, every_seconds=5.0, say_fn=lines.append)
    for done in range(1, 101):
        clock.now += 0.3
        progress.update(done)
    assert [line.split()[1] for line in lines] == ["17/100", "34/100", "51/100", "68/100", "85/100", "100/100"]


def test_rate_and_time_left_count_only_what_this_run_did(clock):
    lines = []
    progress = Progress("train", 100, first=50, every_seconds=0.0, say_fn=lines.append)
    clock.now += 10
    progress.update(70, "epsilon 1")
    assert lines == ["train              70/100  2.0/s  15 s left  epsilon 1"]


def test_rows_have_a_rate_of_their_own(clock):
    lines = []
    progress = Progress("shards", 4, every_seconds=0.0, say_fn=lines.append)
    clock.now += 2
    progress.update(1, rows=300)
    clock.now += 2
    progress.update(2, rows=100)
    assert lines[0].endswith("1/4  0.5/s  6.0 s left  150 rows/s")
    assert lines[1].endswith("2/4  0.5/s  4.0 s left  100 rows/s")


def test_peak_memory_is_at_least_what_was_held():
    held = np.ones(100 << 20, np.uint8)
    assert peak_memory_bytes() > held.nbytes


def test_no_progress_is_an_unknown_time_and_no_error(clock):
    lines = []
    progress = Progress("train", 100, every_seconds=0.0, say_fn=lines.append)
    progress.update(0)
    assert lines == ["train              0/100  0.0/s  unknown time left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.25, "1.2 s"),
        (45, "45 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (float("inf"), "unknown time"),
    ],
)
def test_seconds_are_written_for_people(seconds, text):
    assert format_seconds(seconds) == text
