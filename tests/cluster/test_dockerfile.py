"""The Dockerfile: what the linter says, and what this project asks of its image beyond it."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.cluster.files import ROOT
from tests.tools import find_tool

DOCKERFILE = ROOT / "cluster" / "Dockerfile"


def instructions(text):
    """(name, arguments) of each instruction, comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def faults(text):
    """Sentences, one for each thing the image must not be."""
    steps = instructions(text)
    stages = [i for i, (name, _) in enumerate(steps) if name == "FROM"]
    final = steps[stages[-1] :]
    arguments = dict(a.split("=", 1) for name, a in steps if name == "ARG" and "=" in a)
    found = []
    users = [a for name, a in final if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        found.append("the last user is not a number other than root's")
    for name, base in steps:
        if name == "FROM" and not re.match(r"\$\{PYTHON_IMAGE\}( AS \w+)?$", base):
            found.append(f"FROM {base} is not set by a build argument")
    if not re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", arguments.get("PYTHON_IMAGE", "")):
        found.append("the base is not an exact slim image")
    builder = " ".join(a for name, a in steps[: stages[-1]] if name == "ENV")
    if "HNSWLIB_NO_NATIVE=1" not in builder:
        found.append("hnswlib would be compiled for the build host's CPU")
    if any(re.search(r"apt-get install|g\+\+|gcc", a) for name, a in final if name == "RUN"):
        found.append("a compiler or another package is in the final image")
    for name, a in steps:
        if name == "RUN" and "pip install" in a and "==" not in a:
            found.append("a pip install without an exact version")
        if name == "ADD" or (name == "RUN" and re.search(r"curl|wget", a)):
            found.append("something is fetched outside the package managers")
        if name in ("ENV", "ARG") and re.search(r"(SECRET|PASSWORD|TOKEN|KEY)\w*=", a):
            found.append(f"{name} carries a secret")
    if "RAY_AUTH_MODE=token" not in " ".join(a for name, a in final if name == "ENV"):
        found.append("Ray would start without a token")
    return found


def test_hadolint_finds_nothing():
    hadolint = find_tool("hadolint", brought_by="the extra k8s")
    answer = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, "")


def test_the_image_is_what_is_asked():
    assert faults(DOCKERFILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("USER 10001:10001", "USER root", "the last user"),
        ("USER 10001:10001\n", "", "the last user"),
        ("python:3.11.13-slim-bookworm", "python:3.11", "exact slim"),
        ("FROM ${PYTHON_IMAGE} AS builder", "FROM python:latest AS builder", "not set by a build argument"),
        ("HNSWLIB_NO_NATIVE=1 ", "", "build host's CPU"),
        ('"torch==${TORCH_VERSION}"', "torch", "without an exact version"),
        ("RUN useradd", "RUN apt-get install -y g++ && useradd", "a compiler"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "without a token"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=abc", "carries a secret"),
        ("COPY jobs", "ADD https://example.org/jobs.tar", "fetched outside"),
    ],
)
def test_an_image_that_is_not_is_caught(old, new, fault):
    text = DOCKERFILE.read_text()
    assert old in text
    assert any(fault in f for f in faults(text.replace(old, new)))


def test_both_variants_choose_an_index_and_others_are_refused():
    (choose,) = [a for name, a in instructions(DOCKERFILE.read_text()) if name == "RUN" and "case" in a]
    script = choose.split("esac")[0] + 'esac; echo "$index"'
    for variant, expected in (("cpu", "CPU"), ("gpu", "GPU"), ("tpu", None)):
        environment = {"VARIANT": variant, "TORCH_INDEX_CPU": "CPU", "TORCH_INDEX_GPU": "GPU"}
        answer = subprocess.run(["/bin/bash", "-c", script], env=environment, capture_output=True, text=True)
        assert answer.stdout.strip() == (expected or "")
        assert (answer.returncode == 0) == (expected is not None)


def test_every_copied_path_exists():
    for name, arguments in instructions(DOCKERFILE.read_text()):
        if name == "COPY" and not arguments.startswith("--from"):
            *sources, _ = arguments.replace("${CONSTRAINTS}", "cluster/constraints.txt").split()
            assert [s for s in sources if not (ROOT / s).exists()] == []


def test_pinned_versions_fit_what_the_package_asks_for():
    pinned = dict(line.split("==") for line in (ROOT / "cluster/constraints.txt").read_text().splitlines()[1:])
    pinned |= dict(re.findall(r"ARG (TORCH|RAY)_VERSION=(\S+)", DOCKERFILE.read_text()))
    pinned = {name.lower(): version for name, version in pinned.items()}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(Version(pinned[requirement.name]), prereleases=True), requirement
