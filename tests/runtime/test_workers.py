"""A group of two workers: they add up, fail as one with our errors, and start again when one dies."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import ClassVar

import pytest
from ray.train.v2.api.exceptions import ControllerError

from rapid_dist.errors import RapidDistError, SpecError
from rapid_dist.runtime.workers import interruptible, run_workers
from rapid_dist.specs import RuntimeSpec
from rapid_dist.storage.store import Store

TWO_WORKERS = RuntimeSpec(num_workers=2, max_failures=2)


def add_then_refuse(collective, arguments):
    """Says the sum over the workers, then raises one of our errors everywhere."""
    import torch

    total = collective.sum(torch.tensor([1.0, 10.0 * collective.rank])).tolist()
    word = collective.broadcast(b"from zero" if collective.rank == 0 else b"from another").decode()
    arguments["store"].write_bytes(f"call-{collective.rank}-{os.getpid()}", b"")
    arguments["say"](f"rank {collective.rank} sums {total} and hears {word!r}")
    raise SpecError("a setting that only a worker can judge")


def add_and_die_once(collective, arguments):
    """Counts up in a file; on the first try rank 1 ends its process half way."""
    import torch

    store = arguments["store"]
    store.write_bytes(f"try-{collective.rank}-{os.getpid()}", b"")
    reached = int(store.read_bytes("reached")) if store.exists("reached") else 0
    collective.sum(torch.zeros(1))
    started_at = reached
    while reached < 4:
        if reached == 2 and collective.rank == 1 and store.create_exclusive("died", b""):
            os._exit(1)
        reached += int(collective.sum(torch.ones(1)).item()) // collective.world_size
        if collective.rank == 0:
            store.write_bytes("reached", str(reached).encode())
    return {"rank": collective.rank, "started_at": started_at, "reached": reached}


class StartsAtTheThirdTry:
    """Stands for TorchTrainer: its group dies twice while it starts, which Ray Train itself does not retry."""

    tries: ClassVar[list[str]] = []

    def __init__(self, worker, *, run_config, **settings):
        self.tries.append(run_config.name)

    def fit(self):
        if len(self.tries) < 3:
            raise ControllerError(RuntimeError("a worker died while its group started"))
        return SimpleNamespace(return_value={"value": {"tries": len(self.tries)}})


@pytest.mark.parametrize(("max_failures", "is_enough"), [(2, True), (1, False)])
def test_a_group_that_dies_while_it_starts_is_started_again(ray_cluster, monkeypatch, max_failures, is_enough):
    monkeypatch.setattr("ray.train.torch.TorchTrainer", StartsAtTheThirdTry)
    monkeypatch.setattr(StartsAtTheThirdTry, "tries", [])
    runtime = RuntimeSpec(max_failures=max_failures)
    if is_enough:
        assert run_workers(add_then_refuse, {}, runtime=runtime, name="starting") == {"tries": 3}
    else:
        with pytest.raises(RapidDistError, match=r"failed more than 1 times.*died while its group started.*resume"):
            run_workers(add_then_refuse, {}, runtime=runtime, name="starting")
    assert len(set(StartsAtTheThirdTry.tries)) == max_failures + 1


def test_workers_sum_and_their_lines_and_our_error_reach_the_driver_without_a_retry(ray_cluster, tmp_path, capfd):
    store = Store(tmp_path)
    with pytest.raises(SpecError, match=r"^a setting that only a worker can judge$"):
        run_workers(add_then_refuse, {"store": store}, runtime=TWO_WORKERS, name="refusing")
    assert sorted(name.split("-")[1] for name in store.list_files()) == ["0", "1"]
    said = capfd.readouterr().err
    for rank in (0, 1):
        assert f"rank {rank} sums [2.0, 10.0] and hears 'from zero'\n" in said


def test_a_dead_worker_restarts_the_group_which_goes_on_from_what_it_wrote(ray_cluster, tmp_path):
    store = Store(tmp_path)
    answer = run_workers(add_and_die_once, {"store": store}, runtime=TWO_WORKERS, name="dying")
    assert answer == {"rank": 0, "started_at": 2, "reached": 4}
    assert store.exists("died")
    assert len([name for name in store.list_files() if name.startswith("try-")]) == 4


class Remembers:
    """Stands for TorchTrainer: keeps what it was asked for."""

    asked: ClassVar[list] = []

    def __init__(self, worker, *, scaling_config, **settings):
        self.asked.append(scaling_config)

    def fit(self):
        return SimpleNamespace(return_value={"value": {}})


@pytest.mark.parametrize(
    ("runtime", "workers", "cpus"),
    [
        (RuntimeSpec(num_workers=2), 2, 1),
        (RuntimeSpec(num_workers=1), 1, 2),
        (RuntimeSpec(min_workers=1, max_workers=2, resize_seconds=7), (1, 2), 1),
        # There is room for one worker only as large as its node; more nodes of the same size may come.
        (RuntimeSpec(min_workers=1, max_workers=8), (1, 8), 2),
    ],
)
def test_a_group_asks_for_its_range_and_for_what_fits(ray_cluster, monkeypatch, runtime, workers, cpus):
    monkeypatch.setattr("ray.train.torch.TorchTrainer", Remembers)
    monkeypatch.setattr(Remembers, "asked", [])
    assert run_workers(add_then_refuse, {}, runtime=runtime, name="asking") == {}
    (asked,) = Remembers.asked
    assert asked.num_workers == workers
    assert asked.resources_per_worker == {"CPU": cpus}
    assert asked.elastic_resize_monitor_interval_s == runtime.resize_seconds


def test_a_group_that_never_fits_a_local_ray_is_refused(ray_cluster):
    for runtime in (RuntimeSpec(num_workers=3), RuntimeSpec(min_workers=3, max_workers=4)):
        with pytest.raises(SpecError, match=r"asks for 3 workers but this Ray has 2 CPUs.*raise runtime.num_cpus"):
            run_workers(add_then_refuse, {}, runtime=runtime, name="waiting")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_from_outside_is_an_interrupt_and_the_handlers_come_back(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
