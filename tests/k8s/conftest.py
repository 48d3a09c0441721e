"""Rendered overlays, and the schemas they are held against."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.tools import find_tool

ROOT = Path(__file__).parents[2]
OVERLAYS = ("kind-cpu", "gpu")
# Strict JSON schemas of the custom resources of KubeRay 1.7, one file a kind.
SCHEMAS = Path(os.environ.get("RAPID_DIST_KUBERAY_SCHEMAS", ROOT.parent / "shared" / "reference" / "kuberay"))


def render(folder: Path) -> list[dict]:
    """The manifests of a kustomization, as `kubectl apply -k` would send them."""
    kubectl = find_tool("kubectl", brought_by="the extra k8s")
    answer = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return list(yaml.safe_load_all(answer.stdout))


@pytest.fixture(scope="session")
def rendered() -> dict[str, list[dict]]:
    return {name: render(ROOT / "k8s" / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def documents(request, rendered) -> list[dict]:
    """A copy of one overlay's manifests that a test may change."""
    return copy.deepcopy(rendered[request.param])


@pytest.fixture
def named(documents):
    """The function (kind, name) -> that manifest of documents."""

    def find(kind, name):
        (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
        return found

    return find


@pytest.fixture(scope="session")
def kuberay_schemas() -> dict[str, dict]:
    paths = {kind: SCHEMAS / f"{kind}.v1.schema.json" for kind in ("RayCluster", "RayJob")}
    if not all(path.exists() for path in paths.values()):
        pytest.skip(f"the schemas of KubeRay are not in {SCHEMAS}; name their folder in RAPID_DIST_KUBERAY_SCHEMAS")
    return {kind: json.loads(path.read_text()) for kind, path in paths.items()}
