"""Submitting jobs to a local cluster as a user does, and looking at them through the jobs API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rapid_dist import layout
from rapid_dist.storage.store import Store
from tests.cluster.conftest import ROOT
from tests.tiny import TinySources

PATIENCE_SECONDS = 300


def wait_until(condition: Callable[[], bool], why: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Looks again until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {why}"
        time.sleep(0.2)


def checkout(folder: Path) -> Path:
    """What a user's working directory holds: the package and the entries."""
    for name in ("rapid_dist", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def put_sources(sources: TinySources, prefix: str) -> dict[str, str]:
    """Copies the three sources to S3; the data section that names them there."""
    uris = {}
    for name in ("private", "public", "test"):
        Store(prefix).write_bytes(f"{name}.npz", Path(getattr(sources, name)).read_bytes())
        uris[name] = f"{prefix}/{name}.npz"
    return uris


def ledger_store(out: Store) -> Store:
    """The ledger of a run, or of a study, that ingested its private images itself."""
    return out.child(f"{layout.PRIVATE_IMAGES}/{layout.LEDGER}")


def last_json(log: str) -> dict[str, Any]:
    """The object at the end of a job's log."""
    return json.loads([line for line in log.splitlines() if line.startswith("{")][-1])


class RayJobs:
    """Jobs of one cluster whose working directory is `folder`."""

    def __init__(self, cluster, folder: Path):
        self.cluster, self.folder = cluster, folder

    def submit(self, name: str, *entrypoint: str, wait: bool = True) -> str:
        """`ray job submit --working-dir . -- python ...`; waits for the end and returns the log, if asked to."""
        command = [f"{Path(sys.executable).parent}/ray", "job", "submit", "--submission-id", name, "--working-dir", "."]
        command += [] if wait else ["--no-wait"]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))}
        done = subprocess.run(
            [*command, "--", "python", *entrypoint],
            cwd=self.folder,
            env={**kept, **self.cluster.environment()},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        return self.log(name)

    def status(self, name: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return json.loads(self._get(f"/api/jobs/{name}"))["status"]

    def log(self, name: str) -> str:
        return json.loads(self._get(f"/api/jobs/{name}/logs"))["logs"]

    def stop(self, name: str) -> None:
        """`ray job stop`, and waits until it has."""
        self._get(f"/api/jobs/{name}/stop", method="POST")
        wait_until(lambda: self.status(name) in ("STOPPED", "FAILED", "SUCCEEDED"), f"{name} to stop")

    def wait_for_end(self, name: str, seconds: float = PATIENCE_SECONDS) -> str:
        """Waits for SUCCEEDED and returns the log."""
        wait_until(lambda: self.status(name) not in ("PENDING", "RUNNING"), f"{name} to end", seconds)
        log = self.log(name)
        assert self.status(name) == "SUCCEEDED", log[-3000:]
        return log

    def _get(self, path: str, method: str = "GET") -> bytes:
        token = Path(self.cluster.environment()["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            self.cluster.dashboard_url + path, method=method, headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()
