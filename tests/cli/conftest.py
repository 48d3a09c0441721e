"""Calling the command line, and what one good line of error is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from rapid_dist.cli import main


@pytest.fixture
def call():
    """The function (*arguments) -> click's result, in this process; a bug is raised, not swallowed."""

    def invoke(*arguments):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def refused(call):
    """The function (*arguments) -> the one line on stderr with which a command refuses, with exit code 2.

    after_progress: lines of progress may come before it, where the fault is found only after a stage began.
    """

    def invoke(*arguments, after_progress=False):
        result = call(*arguments)
        lines = result.stderr.splitlines()
        assert result.exit_code == 2, result.stderr
        assert result.stdout == ""
        assert [line.startswith("rapid-dist: ") for line in lines] == [False] * (len(lines) - 1) + [True]
        assert len(lines) == 1 or after_progress, lines
        return lines[-1]

    return invoke


@pytest.fixture
def no_ray(monkeypatch, request):
    """Fails the test when anything asks for Ray, but for the finished run that it starts from."""
    import rapid_dist.runtime.session

    if "finished_run" in request.fixturenames:
        request.getfixturevalue("finished_run")

    def fail():
        raise AssertionError("Ray was started for a fault that could be seen without it")

    monkeypatch.setattr(rapid_dist.runtime.session, "start_ray", fail)


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """A copy of the finished run's folder that a test may damage."""
    return Path(shutil.copytree(finished_run.out.uri, tmp_path / "out"))


@pytest.fixture
def state():
    """The function folder -> {path: (bytes, time of change)} of all its files."""

    def read(folder):
        files = [p for p in Path(folder).rglob("*") if p.is_file()]
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}

    return read
