"""The types of what a user calls hold by mypy, strictly, and a user's own checker may rely on them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rapid_dist

ROOT = Path(rapid_dist.__file__).parent.parent


@pytest.fixture
def check(tmp_path_factory):
    """The function that runs mypy with the project's settings and gives its answer."""
    cache = tmp_path_factory.getbasetemp() / "mypy"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), *arguments]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)

    return run


def test_public_modules_pass_the_type_checker(check):
    answer = check()
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_wrong_argument_of_a_user_is_noticed(check, tmp_path):
    (tmp_path / "user.py").write_text(
        "import rapid_dist as rd\n"
        "run = rd.Run('spec.yaml', out='my-run')\n"
        "right: float = run.plan().epsilon\n"
        "run.sample('many')\n"
        "rd.privacy.calibrate(target_epsilon=3, delta=1e-5, sample_rate=0.1, stpes=5)\n"
        "rd.no_such_name\n"
        "from rapid_dist.specs import DenoiserSpec\n"
        "right_again = DenoiserSpec(width=64)\n"
        "DenoiserSpec(widht=64)\n"
    )
    answer = check(str(tmp_path / "user.py"))
    lines = [line for line in answer.stdout.splitlines() if ": error: " in line]
    codes = [line.rsplit("[", 1)[1] for line in lines]
    assert codes == ["arg-type]", "call-arg]", "attr-defined]", "call-arg]"], answer.stdout


def test_the_package_says_that_it_has_types():
    assert (ROOT / "rapid_dist" / "py.typed").exists()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["rapid_dist"]
    assert {"mypy", "types-PyYAML"} <= {
        line.split(">")[0] for line in settings["project"]["optional-dependencies"]["test"]
    }
