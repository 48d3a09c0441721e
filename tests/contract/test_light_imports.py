"""Importing the package, or its command line, loads nothing heavy and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("ray", "torch", "numpy", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib", "opacus", "s3fs", "hnswlib")


@pytest.mark.parametrize("module", ["rapid_dist", "rapid_dist.cli", "rapid_dist.specs", "rapid_dist.run"])
def test_importing_loads_nothing_heavy(module):
    code = f"import json, sys, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == []
    assert answer.stderr == ""
