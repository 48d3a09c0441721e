"""How a session is opened: where the token comes from, what is warned of, and what a closed door looks like."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rapid_dist.runtime import session

PLACES = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    """A home without a token, and no word of one in the environment."""
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_ray_of_our_own_always_has_a_token(no_token, monkeypatch):
    assert session._token_is_on(None)


def test_a_ray_of_our_own_asks_for_its_token_even_where_ray_was_imported_before(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    code = (
        "import os, ray\n"
        "from rapid_dist.runtime.session import ray_session, start_ray\n"
        "from rapid_dist.specs import RuntimeSpec\n"
        "with ray_session(RuntimeSpec(num_cpus=1)):\n"
        "    start_ray()\n"
        "    print(os.environ['RAY_AUTH_MODE'], ray.get(ray.remote(lambda: 5).remote()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout == "token 5\n", done.stderr
    assert (tmp_path / ".ray" / "auth_token").exists()


def test_a_cluster_is_joined_with_a_token_when_there_is_one(no_token, monkeypatch):
    (no_token / ".ray").mkdir()
    (no_token / ".ray" / "auth_token").write_text("x")
    assert session._token_is_on("10.0.0.1:6379")


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_in_the_environment_counts(no_token, monkeypatch, name):
    monkeypatch.setenv(name, "x")
    assert session._token_is_on("10.0.0.1:6379")


def test_without_one_a_cluster_is_joined_openly_and_a_choice_of_the_user_stands(no_token, monkeypatch):
    assert not session._token_is_on("10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert not session._token_is_on(None)


def test_code_travels_to_a_cluster_unless_a_job_brought_it(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    (package,) = session._runtime_environment({})["py_modules"]
    assert (Path(package) / "runtime" / "session.py").exists()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert session._runtime_environment({"A": "1"}) == {"env_vars": {"A": "1"}}


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
    (tmp_path / "source").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "source" / "a.png")
    command = [sys.executable, "-m", "rapid_dist", "ingest", str(tmp_path / "source"), "--privacy-class", "public"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"rapid-dist: the Ray cluster at {address} (RAY_ADDRESS) cannot be joined: ConnectionRefusedError; check that "
        "it runs, or unset RAY_ADDRESS to use a local Ray\n"
    )
