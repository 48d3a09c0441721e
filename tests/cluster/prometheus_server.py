"""A real Prometheus on loopback, with this repository's configuration pointed at given targets."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.files import PROMETHEUS
from tests.tools import find_debian_tool


class Prometheus:
    """Asks a running server over its HTTP API."""

    def __init__(self, port: int):
        self._base = f"http://127.0.0.1:{port}/api/v1/"

    def get(self, path: str, **parameters: str) -> Any:
        url = self._base + path + ("?" + urllib.parse.urlencode(parameters) if parameters else "")
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.loads(answer.read())
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Sorted labels, without instance and job, -> value."""
        rows = self.get("query", query=expression)["result"]
        return {
            tuple(sorted((k, v) for k, v in r["metric"].items() if k not in ("instance", "job"))): float(r["value"][1])
            for r in rows
        }

    def value(self, expression: str) -> float | None:
        """The one value of an expression, None while there is none."""
        values = list(self.query(expression).values())
        assert len(values) <= 1, values
        return values[0] if values else None


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true answer of condition, asked again and again until the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            answer = condition()
            if answer:
                return answer
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_prometheus(folder: Path, targets: dict[str, str | Path]) -> Iterator[Prometheus]:
    """targets: scrape job -> host:port, or the file in which Ray lists its nodes.

    Scrapes and evaluates every second instead of every fifteen.
    """
    program = find_debian_tool("prometheus", package="prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    for job in config["scrape_configs"]:
        job.pop("file_sd_configs", None)
        target = targets[job["job_name"]]
        if isinstance(target, Path):
            job["file_sd_configs"] = [{"files": [str(target)], "refresh_interval": "1s"}]
        else:
            job["static_configs"] = [{"targets": [target]}]
    folder.mkdir(parents=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            server = Prometheus(port)
            wait_for(lambda: process.poll() is not None or server.get("status/runtimeinfo"))
            assert process.poll() is None, (folder / "log").read_text()
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)
