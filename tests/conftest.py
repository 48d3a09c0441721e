"""One Ray session and one finished tiny run for all tests that need them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.tiny import TinySources, tiny_settings, write_spec, write_tiny_sources

# Warnings are errors, but for those that Ray gives about Ray's own settings and calls.
RAY_WARNINGS = (r"ignore::DeprecationWarning:ray\.",)


def pytest_configure(config):
    # A shell that starts this in the background has it, and all it starts, ignore Ctrl-C, which tests press.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in RAY_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray with two logical CPUs, started once; sessions opened within it join it."""
    from rapid_dist.runtime.session import ray_session
    from rapid_dist.specs import RuntimeSpec

    with ray_session(RuntimeSpec(num_cpus=2)):
        yield


@pytest.fixture(scope="session")
def tiny_sources(tmp_path_factory) -> TinySources:
    return write_tiny_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture
def spec_file(tiny_sources, tmp_path):
    """The function of changed sections that writes a tiny spec and returns its path."""

    def write(**sections) -> Path:
        return write_spec(tmp_path / "spec.yaml", tiny_settings(tiny_sources, **sections))

    return write


@pytest.fixture(scope="session")
def finished_run(ray_cluster, tiny_sources, tmp_path_factory):
    """A tiny run with every stage done on two workers, and what its stages answered. Read it, do not change it."""
    from rapid_dist.run import Run
    from rapid_dist.specs import load_spec
    from rapid_dist.storage.store import Store

    folder = tmp_path_factory.mktemp("finished")
    run = Run(load_spec(str(write_spec(folder / "spec.yaml", tiny_settings(tiny_sources)))), Store(folder / "out"))
    run.results = run.run_stages()
    return run
