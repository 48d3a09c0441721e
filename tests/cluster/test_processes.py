"""The script touches only processes that carry its own mark, and says in one line what it cannot do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cluster.local import main
from cluster.processes import MARK, marked_processes


@pytest.fixture
def sleeper():
    """The function of a mark that starts a process which carries it and waits for its standard input to close."""
    started = []

    def start(mark):
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"],
            env={**os.environ, MARK: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        process.communicate()


def test_a_mark_finds_its_own_processes_and_those_of_its_nodes_only(sleeper):
    first, tenth, other = sleeper("abc.1"), sleeper("abc.10"), sleeper("abcd.1")
    assert marked_processes("abc.1") == [first]
    assert marked_processes("abc.10") == [tenth]
    assert sorted(marked_processes("abc")) == sorted([first, tenth])
    assert marked_processes("abcd") == [other]
    assert marked_processes("ab") == []


@pytest.mark.parametrize("action", ["status", "add", "kill", "down"])
def test_without_a_state_file_there_is_one_line_and_exit_code_2(action, tmp_path, capsys):
    assert main([action, "--state", str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"cluster: {tmp_path}/none.json is no state file of a local cluster; give the --state of `up`\n"


def test_up_does_not_forget_a_cluster_it_has_a_state_file_of(tmp_path, capsys):
    state = tmp_path / "cluster.json"
    state.write_text("{}")
    assert main(["up", "--state", str(state)]) == 2
    assert "exists" in capsys.readouterr().err
    assert state.read_text() == "{}"
