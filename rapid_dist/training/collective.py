"""What a training loop needs of its peers: who it is, how many there are, a sum and a word from rank 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from rapid_dist import errors

Value = TypeVar("Value")


class Collective(Protocol):
    """A group of workers that all make the same calls in the same order."""

    rank: int
    world_size: int
    device: str

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over all workers, in place; every worker gets the same tensor."""

    def broadcast(self, data: bytes) -> bytes:
        """Rank 0's bytes; what other ranks pass is ignored. Never touches a disk."""


class TorchCollective:
    """A group that torch.distributed has already set up (gloo on CPU, nccl on GPU)."""

    def __init__(self, device: str = "cpu"):
        import torch.distributed as dist

        self._dist = dist
        self.device = device
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.world_size > 1:
            self._dist.all_reduce(tensor)
        return tensor

    def broadcast(self, data: bytes) -> bytes:
        if self.world_size == 1:
            return data
        length = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        self._dist.broadcast(length, src=0)
        payload = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.rank == 0:
            payload.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        self._dist.broadcast(payload, src=0)
        return payload.cpu().numpy().tobytes()


def agree(collective: Collective, fn: Callable[[], Value]) -> Value:
    """Runs fn on every worker; when it fails with one of our errors on any of them, all raise one.

    So no worker is left waiting in a sum for one that gave up.
    """
    failure: errors.RapidDistError | None = None
    value: Any = None
    try:
        value = fn()
    except errors.RapidDistError as error:
        failure = error
    failed = collective.sum(torch.tensor([0.0 if failure is None else 1.0], device=collective.device))
    if failure is not None:
        raise failure
    if failed.item() > 0:
        raise errors.InputError("another worker refused its part of the data; its own message says why")
    return value


def on_rank_zero(collective: Collective, fn: Callable[[], Any]) -> Any:
    """Runs fn on rank 0 only and gives every worker its JSON-able result, or raises its error on every worker."""
    answer = json.dumps(errors.as_value(fn)).encode() if collective.rank == 0 else b""
    return errors.value_of(json.loads(collective.broadcast(answer)))
