"""What the tests of training share: workers as threads, a tiny private problem, a plan in a few numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rapid_dist.diffusion.process import make_alphas_cumprod
from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import Ledger, open_ledger, read_ledger
from rapid_dist.privacy.plan import OneWorker, PrivacyPlan
from rapid_dist.seeding import content_addresses
from rapid_dist.specs import DenoiserSpec, ScheduleSpec, TrainingSpec
from rapid_dist.storage.store import Store
from rapid_dist.training.plan import PrivateRun
from rapid_dist.training.private import PrivateAttempt, train_privately
from rapid_dist.training.private_data import PrivatePartition
from rapid_dist.training.state import CheckpointFolder, TrainState

SHAPE, NUM_CLASSES = (3, 2), 3
SCHEDULE = ScheduleSpec(num_train_timesteps=50, split_step=30, query_step=40)
ALPHAS = make_alphas_cumprod(SCHEDULE)
SECONDS_UNTIL_DEADLOCK = 60


class ThreadCollective:
    """One worker of a group of threads; sums and words go through shared slots between two barriers."""

    device = "cpu"

    def __init__(self, rank: int, world_size: int, barrier: threading.Barrier, slots: list[Any]):
        self.rank, self.world_size = rank, world_size
        self._barrier, self._slots = barrier, slots

    def _gather(self, value: Any) -> list[Any]:
        self._slots[self.rank] = value
        self._barrier.wait()
        everything = list(self._slots)
        self._barrier.wait()
        return everything

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        parts = self._gather(tensor.clone())
        tensor.copy_(torch.stack(parts).sum(0))
        return tensor

    def broadcast(self, data: bytes) -> bytes:
        return self._gather(data)[0]


def run_workers(world_size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What work(collective) returns, or the exception it raises, on each of world_size workers."""
    if world_size == 1:
        return [_answer(work, OneWorker())]
    barrier = threading.Barrier(world_size, timeout=SECONDS_UNTIL_DEADLOCK)
    slots: list[Any] = [None] * world_size
    answers: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        answers[rank] = _answer(work, ThreadCollective(rank, world_size, barrier, slots))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return answers


def _answer(work: Callable[[Any], Any], collective: Any) -> Any:
    try:
        return work(collective)
    except Exception as error:
        return error


def returned(answers: list[Any]) -> list[Any]:
    """The answers, after raising the first that is an exception."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def make_plan(**changes: Any) -> PrivacyPlan:
    values = {
        "target_epsilon": 50.0,
        "target_delta": 1e-3,
        "neighboring_relation": "add_or_remove_one",
        "unit": "one image",
        "sample_rate": 0.5,
        "expected_batch_size": 6.0,
        "max_grad_norm": 0.5,
        "noise_multiplier": 2.0,
        "steps": 4,
        "spare_steps": 0,
        "votes_noise_multiplier": None,
        "is_private": False,
    }
    return PrivacyPlan(**{**values, **changes})


def make_training(**changes: Any) -> TrainingSpec:
    values = {"steps": 4, "noise_multiplicity": 2, "checkpoint_every": 2, "learning_rate": 0.01}
    return TrainingSpec(**{**values, **changes})


def make_run(*, plan: PrivacyPlan | None = None, training: TrainingSpec | None = None, **changes: Any) -> PrivateRun:
    """The constants of the tiny problem, with some of them replaced."""
    values = {
        "plan": plan or make_plan(),
        "training": training or make_training(),
        "schedule": SCHEDULE,
        "alphas_cumprod": ALPHAS,
        "num_conditions": NUM_CLASSES,
        "max_physical_batch_size": 1000,
    }
    return PrivateRun(**{**values, **changes})


def make_records(num_records: int, *, has_surrogate: bool = False) -> PrivatePartition:
    rng = np.random.default_rng(3)
    latent, surrogate = (torch.from_numpy(rng.normal(size=(num_records, *SHAPE)).astype("f4")) for _ in range(2))
    return PrivatePartition(
        example_id=np.arange(num_records, dtype=np.int64) * 5 + 2,
        address=content_addresses(latent.numpy()),
        latent=latent,
        label=torch.from_numpy(rng.integers(-1, NUM_CLASSES, num_records)),
        surrogate=surrogate if has_surrogate else None,
    )


def take(records: PrivatePartition, rows: Any) -> PrivatePartition:
    """The partition of the rows given by position."""
    rows = np.asarray(rows, dtype=np.int64)
    surrogate = None if records.surrogate is None else records.surrogate[rows]
    return PrivatePartition(
        example_id=records.example_id[rows],
        address=records.address[rows],
        latent=records.latent[rows],
        label=records.label[rows],
        surrogate=surrogate,
    )


def make_state(*, width: int = 6, training: TrainingSpec | None = None) -> TrainState:
    """A tiny denoiser whose zero layers are moved, so that every parameter learns from the first step."""
    training = training or make_training()
    model = build_denoiser(
        DenoiserSpec(width=width, num_blocks=1, embedding_dim=4),
        latent_shape=SHAPE,
        num_conditions=NUM_CLASSES,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    # A large Adam epsilon keeps the step a smooth function of the gradient.
    return TrainState(model, learning_rate=training.learning_rate, ema_decay=training.ema_decay, adam_epsilon=1e-3)


def open_tiny_ledger(store: Store, plan: PrivacyPlan) -> Ledger:
    return open_ledger(store, **plan.ledger_terms())


def begin_attempt(store: Store, plan: PrivacyPlan, *, key: RunKey | None = None) -> PrivateAttempt:
    ledger = open_tiny_ledger(store, plan)
    fitting = RunKey.fresh() if plan.is_private else RunKey.fixed_for_debugging(1)
    return PrivateAttempt(number=ledger.begin_attempt(plan.to_plain()), key=key or fitting, ledger=ledger)


def train(
    state: TrainState,
    records: PrivatePartition,
    attempt: PrivateAttempt,
    folder: CheckpointFolder,
    *,
    collective: Any = None,
    plan: PrivacyPlan | None = None,
    training: TrainingSpec | None = None,
    max_physical_batch_size: int = 1000,
    clipping_engine: str = "auto",
    **kwargs: Any,
) -> bool:
    """train_privately with the tiny problem's settings wherever none are given."""
    return train_privately(
        state,
        records,
        make_run(
            plan=plan,
            training=training,
            max_physical_batch_size=max_physical_batch_size,
            clipping_engine=clipping_engine,
        ),
        attempt=attempt,
        collective=collective or OneWorker(),
        checkpoints=folder,
        **kwargs,
    )


def flat_weights(state: TrainState) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


class Place:
    """A ledger and a checkpoint folder beside each other."""

    def __init__(self, path):
        self.ledger = Store(path / "ledger")
        self.checkpoints = CheckpointFolder(Store(path / "checkpoints"))

    @property
    def charges(self):
        return read_ledger(self.ledger).charges


def run_group(place: Place, parts: list, *, key=None, plan=None, **settings) -> list:
    """Trains one fresh state per worker, each on its part; returns the states."""
    plan = plan or make_plan()
    first = begin_attempt(place.ledger, plan, key=key)

    def work(collective):
        ledger = first.ledger if collective.rank == 0 else None
        attempt = replace(first, ledger=ledger)
        state = make_state()
        mine = parts[collective.rank]
        assert train(state, mine, attempt, place.checkpoints, collective=collective, plan=plan, **settings)
        return state

    return returned(run_workers(len(parts), work))
