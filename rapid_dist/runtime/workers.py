"""One Ray Train fit: a function run on every worker of a gloo or nccl group, our errors carried back as values."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rapid_dist import errors
from rapid_dist.runtime.mailbox import relayed_lines
from rapid_dist.runtime.session import cpus_per_worker, placed
from rapid_dist.specs import RuntimeSpec
from rapid_dist.telemetry import headed
from rapid_dist.training.collective import Collective, TorchCollective


def run_workers(
    fn: Callable[[Collective, dict[str, Any]], dict[str, Any]],
    arguments: dict[str, Any],
    *,
    runtime: RuntimeSpec,
    name: str,
    is_private: bool = False,
) -> dict[str, Any]:
    """Runs fn(collective, arguments) on a group of runtime.worker_range workers and returns what rank 0 returned.

    A worker that dies takes the group with it and a new group starts, at most runtime.max_failures times; an elastic
    group starts again with the workers there is room for, and again when there is room for more. fn must resume by
    itself. arguments also get `say`, which prints on the driver, and `device`. is_private: whether fn reads private
    data, and so runs where it may. An error of ours is raised by every worker alike, is not retried, and raised here.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

    fewest, most = runtime.worker_range
    place = placed(is_private=is_private)
    nodes = place.cpus_of_nodes
    # An elastic group may start before all of its nodes are there: its workers are sized for those that are.
    cpus = cpus_per_worker(nodes, most) or cpus_per_worker(nodes, fewest)
    if not cpus and not os.environ.get("RAY_ADDRESS"):
        raise errors.SpecError(
            f"runtime asks for {fewest} workers but this Ray has {sum(nodes)} CPUs and would wait for ever; "
            "use fewer workers, or raise runtime.num_cpus"
        )
    cpus = max(1, cpus)
    with tempfile.TemporaryDirectory(prefix="rapid-dist-train-") as scratch, relayed_lines() as say_fn:

        def fit() -> Any:
            trainer = TorchTrainer(
                _worker,
                train_loop_config={
                    "fn": fn,
                    "arguments": {**arguments, "say": say_fn},
                    "threads": cpus,
                    "device": runtime.device,
                    "name": name,
                    "most": most if fewest < most else None,
                },
                scaling_config=ScalingConfig(
                    num_workers=most if fewest == most else (fewest, most),
                    elastic_resize_monitor_interval_s=runtime.resize_seconds,
                    use_gpu=runtime.device.startswith("cuda"),
                    resources_per_worker={"CPU": cpus, **place.resources},
                    label_selector=place.label_selector or None,
                ),
                run_config=RunConfig(
                    # A fresh name: Ray Train would otherwise take the run for a continuation of its own.
                    name=f"{name}-{secrets.token_hex(4)}",
                    storage_path=scratch,
                    failure_config=FailureConfig(max_failures=runtime.max_failures),
                ),
            )
            with interruptible():
                return trainer.fit()

        for failures in range(runtime.max_failures + 1):
            try:
                result = fit()
                break
            except TrainingFailedError as error:
                # A worker that dies while its group is starting ends a fit at once: Ray Train does not retry that.
                if isinstance(error, ControllerError) and failures < runtime.max_failures:
                    continue
                raise errors.RapidDistError(
                    f"{name}: workers failed more than {runtime.max_failures} times; the last reason was "
                    f"{_last_line(error)}; run the same line again to resume"
                ) from error
    return errors.value_of(result.return_value)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt. Ray Train's handler would end the process with code 1, and outlives the fit.

    So does SIGTERM, by which a Ray job is stopped: an elastic fit that is not aborted keeps its claim on the cluster's
    resources for three minutes, in which the next one waits.
    """
    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if is_main:
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if is_main:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(config["threads"])
    device = config["device"]
    if device.startswith("cuda"):
        from ray.train.torch import get_device

        device = str(get_device())
    collective = TorchCollective(device)
    if config["most"] and collective.rank == 0:
        say_fn = config["arguments"]["say"]
        say_fn(headed(config["name"], f"starts on {collective.world_size} of at most {config['most']} workers"))
    return errors.as_value(config["fn"], collective, {**config["arguments"], "device": device})
