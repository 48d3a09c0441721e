"""One Ray session and one finished tiny run for all tests that need them, and which tests run side by side.

Two workers of pytest-xdist share the suite: one runs everything that needs Ray, which mostly waits, and the other runs
the rest next to it. `-n 0` runs all in this process, for a debugger.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# Two workers on two cores: more threads would only wait for each other. Torch reads it when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.tiny import TinySources, tiny_settings, write_spec, write_tiny_sources

# Tests that start or join Ray, in this process or in one of their own: those that ask for one of these fixtures, and
# those in these places.
RAY_FIXTURES = {"ray_cluster", "finished_run"}
RAY_PLACES = ("cli", "cluster", "examples", "faults", "runtime", "s3/test_run_on_s3.py", "stages", "tune/test_run.py")

# Warnings are errors, but for those that Ray gives about Ray's own settings and calls.
RAY_WARNINGS = (r"ignore::DeprecationWarning:ray\.",)


def pytest_configure(config):
    # A shell that starts this in the background has it, and all it starts, ignore Ctrl-C, which tests press.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in RAY_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


def needs_ray(item: pytest.Item) -> bool:
    place = item.path.relative_to(Path(__file__).parent).as_posix()
    return bool(RAY_FIXTURES & set(item.fixturenames)) or place.startswith(RAY_PLACES)


def pytest_itemcollected(item):
    """Puts it into its group here, since xdist reads the groups before the other hooks of this file are called."""
    if needs_ray(item):
        item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fails a test that starts Ray in this process without being among those that may: it would run next to them."""
    was_on = ray_is_on()
    result = yield
    if ray_is_on() and not was_on and not needs_ray(item):
        pytest.fail("this test starts Ray; ask for the fixture ray_cluster, or add its file to RAY_PLACES")
    return result


def ray_is_on() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


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
