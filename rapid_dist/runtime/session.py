"""A Ray session for one command: the cluster that RAY_ADDRESS names, else a local one that ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rapid_dist
from rapid_dist import errors
from rapid_dist.errors import SpecError
from rapid_dist.specs import RuntimeSpec
from rapid_dist.telemetry import headed, say

PRIVATE_DATA = "private_data"  # the resource of nodes that can read private data
DATA_LABEL, PRIVATE = "rapid-dist/data", "private"  # the label of the same nodes
_SLIVER = 0.001  # never what a node runs out of


def cpus_per_worker(cpus_of_nodes: Sequence[int], num_workers: int) -> int:
    """The most CPUs each of num_workers may have when none of them spans nodes; 0 when they do not fit at all."""
    for cpus in range(max(cpus_of_nodes, default=0), 0, -1):
        if sum(node // cpus for node in cpus_of_nodes) >= num_workers:
            return cpus
    return 0


def cpus_for_one_task(cpus_of_nodes: Sequence[int]) -> int:
    """The most CPUs a task may ask for and still be placed after any one node is lost; a lone node gives all it has."""
    largest = sorted((node for node in cpus_of_nodes if node), reverse=True)
    return largest[min(1, len(largest) - 1)] if largest else 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where work may run. cpus_of_nodes: of the nodes there now; the rest is for Ray's options of the same names."""

    cpus_of_nodes: tuple[int, ...]
    resources: dict[str, float] = field(default_factory=dict)
    label_selector: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options of a task or an actor; none where there is nothing to tell nodes apart."""
        options = {"resources": self.resources, "label_selector": self.label_selector}
        return {name: value for name, value in options.items() if value}


def place_for(nodes: Sequence[Mapping[str, Any]], *, is_private: bool) -> Place:
    """Returns where work on private data, or on public data, may run among the nodes alive, as Ray lists them.

    Where any node declares the resource PRIVATE_DATA, private work asks for a sliver of it, and public work keeps off
    the nodes with the label, those that join later included. Where none does, work runs anywhere.

    Guarantee: with nodes declared, no task or worker of a private stage is placed on another node.
    Raises SpecError when a node has the resource without the label, or the label without the resource.
    """
    cpus = {is_declared: [] for is_declared in (True, False)}
    for node in nodes:
        resources, labels = node["Resources"], node.get("Labels") or {}
        is_declared, is_labelled = resources.get(PRIVATE_DATA, 0) > 0, labels.get(DATA_LABEL) == PRIVATE
        if is_declared != is_labelled:
            has, lacks = f"resource {PRIVATE_DATA}", f"label {DATA_LABEL}={PRIVATE}"
            has, lacks = (has, lacks) if is_declared else (lacks, has)
            raise SpecError(
                f"Ray node {node.get('NodeManagerAddress', '')} has the {has} but not the {lacks}; start it with both, "
                "or with neither"
            )
        cpus[is_declared].append(int(resources.get("CPU", 0)))
    if not cpus[True]:
        return Place(cpus_of_nodes=tuple(cpus[False]))
    if is_private:
        return Place(cpus_of_nodes=tuple(cpus[True]), resources={PRIVATE_DATA: _SLIVER})
    return Place(cpus_of_nodes=tuple(cpus[False]), label_selector={DATA_LABEL: f"!{PRIVATE}"})


# Nothing phones home; a worker that dies is noticed within a second; OpenMP threads that wait do not spin, since on
# shared cores spinning made small layers 10 to 50 times slower.
_WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's core logs a warning of its own about every pool of actors that Ray Data makes, as an error.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
_KNOCK_SECONDS = 10
_sessions: list[RuntimeSpec] = []  # the outermost session owns the Ray that is started within it
_owns_ray = False


@contextlib.contextmanager
def ray_session(runtime: RuntimeSpec) -> Iterator[None]:
    """A scope in which start_ray may start Ray; what it started ends with the outermost scope.

    Nothing is started until a stage has work for it, so that a run with nothing left to do costs no start.
    """
    _sessions.append(runtime)
    try:
        yield
    finally:
        _sessions.pop()
        if not _sessions:
            _stop_own_ray()


def start_ray() -> None:
    """Joins a running session or the cluster of RAY_ADDRESS, or starts a local Ray on loopback; at most once."""
    global _owns_ray
    missing = {name: value for name, value in _WORKER_ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Ray's own name for it: nodes of this Ray are all on this machine, so its ports are opened on loopback only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        _knock(address)
        options["runtime_env"] = _runtime_environment(missing)
        if not _token_is_on(address):
            say(
                headed(
                    "ray",
                    f"warning: the cluster at {address} is joined without a token; who reaches its ports can run code "
                    "there and read its data. Set RAY_AUTH_MODE=token on its nodes and here",
                )
            )
    else:
        # local: not a Ray of somebody else on this machine, which ray.init would join where it finds one.
        # The dashboard stays on: Ray Train asks its State API, and without it complains or waits for ever.
        options |= {"address": "local"}
        options |= {"num_cpus": _sessions[0].num_cpus if _sessions else None, "include_dashboard": True}
    with _silent_core(), _explained(address):
        ray.init(**options)
    _owns_ray = bool(_sessions)
    _quieten()


def _token_is_on(address: str | None) -> bool:
    """Whether Ray will ask for or show a token: as the user says, else for a Ray of our own and where we hold one.

    The mode is left to Ray to set, which does the same: it reads RAY_AUTH_MODE when it is imported, maybe long ago.
    """
    places = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    has_token = any(os.environ.get(name) for name in places) or Path("~/.ray/auth_token").expanduser().exists()
    mode = os.environ.get("RAY_AUTH_MODE")
    return mode.lower() == "token" if mode else has_token or not address


def _runtime_environment(missing: dict[str, str]) -> dict[str, Any]:
    """What workers elsewhere need: our settings, and this very code unless a job has brought it."""
    environment: dict[str, Any] = {"env_vars": missing}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        environment["py_modules"] = [str(Path(rapid_dist.__file__).parent)]
    return environment


def _knock(address: str) -> None:
    """Raises InputError when nothing listens at host:port; Ray itself would look for it for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return  # auto, ray:// and the like
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        raise _not_joined(address, error) from error


def _not_joined(address: str, error: Exception) -> errors.InputError:
    return errors.InputError(
        f"the Ray cluster at {address} (RAY_ADDRESS) cannot be joined: {type(error).__name__}; check that it runs, or "
        "unset RAY_ADDRESS to use a local Ray"
    )


@contextlib.contextmanager
def _explained(address: str | None) -> Iterator[None]:
    """Turns a cluster that cannot be joined into one line; what goes wrong with a Ray of our own stays as it is."""
    try:
        yield
    except Exception as error:
        if not address:
            raise
        if type(error).__name__ == "AuthenticationError":
            raise errors.InputError(
                f"the Ray cluster at {address} asks for another token; give its own in RAY_AUTH_TOKEN or as a file in "
                "RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"
            ) from error
        if isinstance(error, ConnectionError | RuntimeError | TimeoutError | ValueError):
            raise _not_joined(address, error) from error
        raise


@contextlib.contextmanager
def _silent_core() -> Iterator[None]:
    """Keeps what Ray's core prints while it starts off the terminal; what goes wrong is raised all the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _stop_own_ray() -> None:
    global _owns_ray
    if _owns_ray:
        import ray

        ray.shutdown()
        _owns_ray = False


def _quieten() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def start_beside_driver(actor_class: type, *args: Any, **options: Any) -> Any:
    """An actor without CPUs on the driver's own node: what takes another node away does not take it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here, **options)(actor_class).remote(*args)


def placed(*, is_private: bool = False) -> Place:
    """Where work on private or on public data may run in the session, which this starts."""
    start_ray()
    import ray

    place = place_for([node for node in ray.nodes() if node["Alive"]], is_private=is_private)
    if place.label_selector and not any(place.cpus_of_nodes):
        say(headed("ray", "every node with CPUs holds private data; public work waits for one that does not"))
    return place


def require_possible(runtime: RuntimeSpec) -> None:
    """Raises SpecError when a Ray started here could never run what a spec asks for, and so would wait for ever.

    A cluster is not asked: nodes may join it.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    fewest, cpus = runtime.worker_range[0], runtime.num_cpus or os.cpu_count() or 1
    if fewest > cpus:
        raise SpecError(
            f"runtime asks for {fewest} workers but this Ray would have {cpus} CPUs and would wait for ever; use fewer "
            "workers, or raise runtime.num_cpus"
        )
    if runtime.device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise SpecError(f"runtime.device is {runtime.device!r} but torch finds no GPU here; use cpu, or a cluster")


def available_cpus(*, is_private: bool = False) -> int:
    """Logical CPUs of the session that work on private or on public data may use."""
    return max(1, sum(placed(is_private=is_private).cpus_of_nodes))
