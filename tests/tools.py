"""Programs that tests run: of this virtual environment, of the system, or unpacked from a Debian package."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNPACKED = Path(__file__).parents[1] / ".pytest_cache" / "debian"


def find_tool(name: str, *, brought_by: str) -> str:
    """The path of a program; skips the test when it is absent, saying what brings it."""
    found = _which(name)
    if found is None:
        pytest.skip(f"{name} is absent; {brought_by} brings it")
    return found


def find_debian_tool(name: str, *, package: str) -> str:
    """As find_tool; what the system lacks is unpacked from its Debian package, without installing it."""
    found = _which(name) or (_unpacked(package) / "usr" / "bin" / name)
    if not Path(found).exists():
        pytest.skip(f"{name} is absent and could not be downloaded; Debian's package {package} brings it")
    return str(found)


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


@functools.cache  # what could not be had is not asked for again
def _unpacked(package: str) -> Path:
    folder = UNPACKED / package
    if folder.is_dir() or not all(map(shutil.which, ("apt-get", "dpkg"))):
        return folder
    parts = folder.with_suffix(".parts")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    # Package lists are often left out of container images.
    if _runs("apt-get", "download", package, cwd=parts) or (
        _runs("apt-get", "update", cwd=parts) and _runs("apt-get", "download", package, cwd=parts)
    ):
        (archive,) = parts.glob("*.deb")
        if _runs("dpkg", "-x", archive.name, "files", cwd=parts):
            (parts / "files").rename(folder)
    return folder


def _runs(*command: str, cwd: Path) -> bool:
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        return False
