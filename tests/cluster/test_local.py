"""A cluster of several nodes comes up, loses a node, gains one, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster.local import load_cluster, main, start_cluster
from cluster.processes import marked_processes

pytestmark = pytest.mark.cluster

WHERE = """
import json, os, ray, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1)
def where():
    return ray.util.get_node_ip_address(), os.environ["ADDED"], time.sleep(0.2)
addresses = sorted({answer[0] for answer in ray.get([where.remote() for _ in range(8)])})
print(json.dumps({"addresses": addresses, "cpus": ray.cluster_resources()["CPU"]}))
"""


def run_driver(cluster, code):
    """What a driver with this code printed last, as JSON."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **cluster.environment()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nodes_come_go_and_come_back_and_nothing_is_left(tmp_path):
    with start_cluster(2, cpus_per_node=1, env={"ADDED": "1"}) as cluster:
        folder, identity = Path(cluster.head.temp_folder).parent, cluster.workers[0].mark.split(".")[0]
        first, second = cluster.workers
        assert cluster.alive_addresses() == {node.address for node in cluster.nodes}
        seen = run_driver(cluster, WHERE)
        assert seen == {"addresses": sorted([first.address, second.address]), "cpus": 2.0}

        first.kill()
        assert not first.is_alive()
        assert second.is_alive()
        third = cluster.add_node()
        assert run_driver(cluster, WHERE)["addresses"] == sorted([second.address, third.address])

        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{cluster.dashboard_url}/api/version", timeout=10)
        assert len(marked_processes(identity)) > 6
    assert marked_processes(identity) == []
    assert not folder.exists()


def test_the_command_line_brings_up_what_a_later_call_takes_down(tmp_path, capsys):
    state = str(tmp_path / "cluster.json")
    assert main(["up", "--nodes", "1", "--state", state]) == 0
    cluster = load_cluster(state)
    try:
        token = Path(cluster.environment()["RAY_AUTH_TOKEN_PATH"])
        assert token.stat().st_mode & 0o777 == 0o600
        assert token.read_text() not in capsys.readouterr().out + Path(state).read_text()
        assert main(["kill", "1", "--state", state]) == 0
        assert "gone" in capsys.readouterr().out
        assert main(["down", "--state", state]) == 0
        assert not Path(state).exists()
        assert not any(node.is_alive() for node in cluster.nodes)
    finally:
        cluster.stop()
