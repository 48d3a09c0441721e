"""A real Ray cluster of several nodes on one Linux host, for development and tests: each node its own raylet.

    python cluster/local.py up --nodes 2 --cpus-per-node 1 --state cluster.json
    python cluster/local.py status --state cluster.json
    python cluster/local.py kill 1 --state cluster.json      # SIGKILL, as a machine that goes away
    python cluster/local.py add --state cluster.json         # up and add take --private-nodes
    python cluster/local.py down --state cluster.json

Every node has an address of its own in 127.0.0.0/8, its own ports and its own temporary folder. Only processes that
carry this cluster's mark in their environment are ever signalled, by process id; other Rays on the host are left alone.
Ray opens its gRPC and metrics ports on all interfaces whatever address a node is given, so the token is always on; the
dashboard, the agents and gloo stay on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.processes import MARK, ClusterError, exists, free_port, marked_processes, reap, signal_all, wait_until

START_SECONDS = 120.0
STOP_SECONDS = 10.0
_NODE_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    # A killed node is noticed after five seconds instead of fifteen.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_JOB_STOP_WAIT_TIME_S": "20",  # for a stopped job to end by itself; three seconds are short on a busy host
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_WAIT_POLICY": "PASSIVE",
}


# How a node says that it can read private data; public stages then keep off it, and private ones keep to it.
_PRIVATE_NODE = ('--resources={"private_data": 1}', "--labels=rapid-dist/data=private")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One raylet with all it started; the head also holds the GCS and the dashboard."""

    name: str
    mark: str
    address: str
    temp_folder: str
    pid: int

    def is_alive(self) -> bool:
        """Whether any of its processes runs."""
        return bool(marked_processes(self.mark))

    def kill(self) -> None:
        """Ends raylet, workers and agents by SIGKILL, as a machine that goes away; returns when all are gone."""
        # Looked for again until none is left: a parent may start a child while it dies.
        wait_until(lambda: not signal_all(self.mark, signal.SIGKILL), f"node {self.name} does not end", STOP_SECONDS)
        reap(self.pid)


class Cluster:
    """The head and its worker nodes. Made by start_cluster or load_cluster; stops itself at the end of a `with`."""

    def __init__(self, state: dict[str, Any], env: Mapping[str, str] | None = None):
        self._state, self._env = state, dict(env or {})
        self.nodes = [Node(**node) for node in state["nodes"]]

    @property
    def address(self) -> str:
        """host:port of the GCS, for RAY_ADDRESS."""
        return self._state["address"]

    @property
    def dashboard_url(self) -> str:
        """Where `ray job submit` goes."""
        return self._state["dashboard_url"]

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def workers(self) -> list[Node]:
        return self.nodes[1:]

    def environment(self) -> dict[str, str]:
        """What a driver or `ray job submit` needs in its environment; the token is given as a file, not as a value."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": f"{self._state['folder']}/token",
        }

    def add_node(self, *, is_private: bool = False) -> Node:
        """Starts one more worker node and returns when the GCS knows it."""
        (node,) = self._start_workers(1, is_private=is_private)
        return node

    def alive_addresses(self) -> set[str]:
        """Addresses of the nodes the GCS counts as alive, the head included; a lost node leaves after seconds."""
        token = Path(self.environment()["RAY_AUTH_TOKEN_PATH"]).read_text()
        url = f"{self.dashboard_url}/nodes?view=summary"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            raylets = [node["raylet"] for node in json.load(answer)["data"]["summary"]]
        return {raylet["nodeManagerAddress"] for raylet in raylets if raylet.get("state") == "ALIVE"}

    def stop(self) -> None:
        """Ends every process of the cluster, politely first, and removes its folder; a second call does nothing."""
        for node in reversed(self.nodes):
            if node.pid in marked_processes(node.mark):
                os.kill(node.pid, signal.SIGTERM)
        for node in self.nodes:
            with contextlib.suppress(ClusterError):
                wait_until(lambda pid=node.pid: reap(pid) or not exists(pid), "", STOP_SECONDS)
        everything = self._state["id"]
        wait_until(lambda: not signal_all(everything, signal.SIGKILL), "processes are left", STOP_SECONDS)
        shutil.rmtree(self._state["folder"], ignore_errors=True)

    def save(self, path: str) -> None:
        """Writes what load_cluster needs; it holds no token."""
        nodes = [vars(node) for node in self.nodes]
        Path(path).write_text(json.dumps({**self._state, "nodes": nodes, "env": self._env}, indent=1) + "\n")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_workers(self, count: int, *, is_private: bool) -> list[Node]:
        # Names are never used twice, so that a killed node's mark stays its own.
        first = 1 + max(int(node.name) for node in self.nodes)
        role = (f"--address={self.address}", f"--num-cpus={self._state['cpus_per_node']}")
        role += _PRIVATE_NODE if is_private else ()
        started = [self._start_node(first + i, role) for i in range(count)]
        self._wait_for(started)
        return started

    def _start_node(self, number: int, role: tuple[str, ...]) -> Node:
        ip = f"{self._state['network']}.{number + 2}"
        folder, mark = f"{self._state['folder']}/{number}", f"{self._state['id']}.{number}"
        os.makedirs(folder)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--log-color=false", *role]
        command += [f"--node-ip-address={ip}", f"--temp-dir={folder}", "--disable-usage-stats"]
        command += [f"--object-store-memory={self._state['object_store_bytes']}"]
        # Worker ports are chosen by the system: Ray's fixed range is shared by the nodes of one host.
        command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port(ip)}"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        # A job's `python` is looked up on the node's PATH.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        env = {**kept, "PATH": path, **_NODE_SETTINGS, **self._env, **self.environment(), MARK: mark}
        del env["RAY_ADDRESS"], env["RAY_API_SERVER_ADDRESS"]
        with open(f"{folder}/start.log", "wb") as log:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        process.returncode = 0  # the process is looked after by its id; no warning when this object goes
        node = Node(name=str(number), mark=mark, address=ip, temp_folder=folder, pid=process.pid)
        self.nodes.append(node)
        return node

    def _wait_for(self, started: list[Node]) -> None:
        def are_up() -> bool:
            for node in started:
                if reap(node.pid) or not exists(node.pid):
                    raise ClusterError(f"node {node.name} ended while it started: {_log_end(node)}")
            try:
                return self.alive_addresses().issuperset(node.address for node in started)
            except (OSError, ValueError, KeyError):
                return False

        wait_until(are_up, f"not up after {START_SECONDS:.0f} s: {_log_end(started[-1])}", START_SECONDS)


def start_cluster(
    num_workers: int = 2,
    *,
    private_workers: int = 0,
    cpus_per_node: int = 1,
    head_cpus: int = 0,
    object_store_bytes: int = 200_000_000,
    env: Mapping[str, str] | None = None,
) -> Cluster:
    """Starts a head and num_workers worker nodes and returns when the GCS counts them all.

    private_workers: how many of them, the last ones, declare that they can read private data.
    head_cpus: logical CPUs of the head; 0 leaves it to drivers and the GCS, as on a cluster that matters.
    env: further environment of the nodes and so of every worker, such as PYTHONPATH or AWS_ENDPOINT_URL; the caller's
    own environment is passed on, all but its RAY_ variables. Raises ClusterError, with nothing left running.
    """
    token, folder = secrets.token_hex(32), tempfile.mkdtemp(prefix="rdc-")
    with open(os.open(f"{folder}/token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(token)
    network = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
    port, dashboard_port = free_port(f"{network}.2"), free_port("127.0.0.1")
    state = {
        "id": secrets.token_hex(8),
        "folder": folder,
        "network": network,
        "address": f"{network}.2:{port}",
        "dashboard_url": f"http://127.0.0.1:{dashboard_port}",
        "cpus_per_node": cpus_per_node,
        "object_store_bytes": object_store_bytes,
        "nodes": [],
    }
    cluster = Cluster(state, env)
    head = ("--head", f"--port={port}", f"--num-cpus={head_cpus}", "--dashboard-host=127.0.0.1")
    head += (f"--dashboard-port={dashboard_port}", f"--ray-client-server-port={free_port(f'{network}.2')}")
    try:
        node = cluster._start_node(0, head)
        cluster._wait_for([node])
        for count, is_private in ((num_workers - private_workers, False), (private_workers, True)):
            if count:
                cluster._start_workers(count, is_private=is_private)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def load_cluster(path: str) -> Cluster:
    """The cluster of a state file that `up` or Cluster.save wrote. Raises ClusterError when there is none."""
    try:
        state = json.loads(Path(path).read_text())
        return Cluster(state, state.pop("env"))
    except (OSError, ValueError, KeyError, TypeError):
        raise ClusterError(f"{path} is no state file of a local cluster; give the --state of `up`") from None


def _log_end(node: Node) -> str:
    lines = Path(f"{node.temp_folder}/start.log").read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "its log is empty"


def main(arguments: list[str] | None = None) -> int:
    """The command line; the last line of `up` and `status` is what to export for a driver."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("up", "status", "add", "kill", "down"))
    parser.add_argument("node", nargs="?", help="for kill: the node's name, as status shows it")
    parser.add_argument("--state", required=True, help="file that says where the cluster is")
    parser.add_argument("--nodes", type=int, default=2, help="worker nodes beside the head (2)")
    parser.add_argument("--private-nodes", type=int, default=0, help="how many of them declare private_data (0)")
    parser.add_argument("--cpus-per-node", type=int, default=1, help="logical CPUs of a worker node (1)")
    parser.add_argument("--head-cpus", type=int, default=0, help="logical CPUs of the head (0)")
    given = parser.parse_args(arguments)
    try:
        if given.action == "up":
            if Path(given.state).exists():
                raise ClusterError(f"{given.state} exists; end that cluster with `down`, or give another --state")
            cpus = {"cpus_per_node": given.cpus_per_node, "head_cpus": given.head_cpus}
            cluster = start_cluster(given.nodes, private_workers=given.private_nodes, **cpus)
        else:
            cluster = load_cluster(given.state)
        if given.action == "down":
            cluster.stop()
            os.unlink(given.state)
            return 0
        if given.action == "kill":
            (node,) = [n for n in cluster.nodes if n.name == given.node] or [None]
            if node is None:
                raise ClusterError(f"no node is called {given.node!r}; have {[n.name for n in cluster.nodes]}")
            node.kill()
        elif given.action == "add":
            cluster.add_node(is_private=given.private_nodes > 0)
        cluster.save(given.state)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 2
    for node in cluster.nodes:
        role = "head" if node is cluster.head else "worker"
        print(f"{node.name:>3}  {role:<7} {node.address:<16} {'alive' if node.is_alive() else 'gone'}")
    print("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in cluster.environment().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
