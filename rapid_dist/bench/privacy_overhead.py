"""What keyed inclusion, secure noise and the ledger cost of a training step, measured inside real steps."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from rapid_dist.artifacts.storage import Store
from rapid_dist.bench.made_up import make_up
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import open_ledger
from rapid_dist.privacy.plan import PrivacyPlan, build_plan
from rapid_dist.privacy.step import PrivateStep
from rapid_dist.specs import RunSpec
from rapid_dist.training.collective import SingleProcess
from rapid_dist.training.private_batch import make_private_batch
from rapid_dist.training.state import TrainState

LIMIT = 0.05
PRIVACY_PARTS = ("inclusion", "noise", "ledger")
OTHER_PARTS = ("batch", "clipped sum", "update")
# What jobs/specs/mnist-letters.yaml says of a step of private training.
MNIST_SETTINGS = """
data: {private: none, public: none, num_classes: 10}
autoencoder: {kind: conv, latent_dim: 64}
denoiser: {kind: residual_mlp, width: 384, num_blocks: 3, embedding_dim: 128}
schedule: {num_train_timesteps: 1000, split_step: 700, query_step: 800}
privacy:
  target_epsilon: 10
  target_delta: 1.0e-5
  sample_rate: 0.034133333333333335
  nominal_size: 60000
  spare_steps: 80
  votes_noise_multiplier: 20
training:
  steps: 800
  objective: denoise
  noise_multiplicity: 4
  learning_rate: 0.001
  ema_decay: 0.99
  checkpoint_every: 80
"""


@dataclass(frozen=True, kw_only=True)
class PrivacyOverhead:
    """Medians over the measured steps. wall_ms, cpu_ms: part -> milliseconds a step; cpu_ms is of all threads.

    The ledger's share is that of one charge over the steps it pays for (ledger_block_ms over steps_a_block).
    overhead_ratio: inclusion, noise and ledger over the whole step, in wall time; cpu_overhead_ratio in CPU time.
    """

    wall_ms: dict[str, float]
    cpu_ms: dict[str, float]
    step_ms: float
    overhead_ratio: float
    cpu_overhead_ratio: float
    is_within_limit: bool
    limit: float
    ledger_block_ms: float
    steps_a_block: int
    measured_steps: int
    num_threads: int
    num_parameters: int
    num_records: int
    expected_batch_size: float
    noise_multiplicity: int


@dataclass
class _Clock:
    """Wall and CPU seconds of each part, one value each time it ran."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)


def measure_privacy_overhead(spec: RunSpec, *, num_steps: int = 20, num_threads: int | None = None) -> PrivacyOverhead:
    """Runs num_steps real private steps of one worker on random latents of the spec's shapes, and times each part.

    Steps and charges alternate as in training, only in shorter turns: there is one charge of a whole block of
    training.checkpoint_every steps, of which a few are taken, and so on. The ledger is a folder on this disk.
    One step before them is not counted.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        with tempfile.TemporaryDirectory(prefix="rapid-dist-bench-") as folder:
            return _measure(spec, Store(folder), num_steps)
    finally:
        torch.set_num_threads(before)


def _measure(spec: RunSpec, folder: Store, num_steps: int) -> PrivacyOverhead:
    plan = build_plan(spec)
    fixed = spec.privacy.debug_fixed_key
    key = RunKey.fresh() if fixed is None else RunKey.fixed_for_debugging(fixed)
    ledger = open_ledger(folder, **plan.ledger_terms())
    attempt = ledger.begin_attempt(plan.to_plain())
    worker, clock = _Worker(spec), _Clock()

    block = min(spec.training.checkpoint_every, plan.steps)
    num_blocks = min(num_steps, plan.steps // block)
    for index in range(num_blocks):
        with clock.part("ledger"):
            paid = ledger.charge_up_to(plan.training_charge(1), block, attempt=attempt, first_step=index * block)
        steps = plan.private_steps(key, paid)
        if index == 0 and block > 1:
            worker.take_step(next(steps), _Clock())
        wanted = num_steps * (index + 1) // num_blocks - num_steps * index // num_blocks
        for step in itertools.islice(steps, wanted):
            worker.take_step(step, clock)
    return _summarise(clock, spec, plan, worker, block)


class _Worker:
    """One worker that holds all records, as random latents."""

    def __init__(self, spec: RunSpec):
        self._spec, made = spec, make_up(spec)
        self.partition, self._alphas_cumprod = made.partition, made.alphas_cumprod
        self.state = TrainState(
            made.model, learning_rate=spec.training.learning_rate, ema_decay=spec.training.ema_decay
        )
        self.parameters = list(made.model.parameters())

    def take_step(self, step: PrivateStep, clock: _Clock) -> None:
        """One step of training, as the training loop takes it."""
        spec = self._spec
        with clock.part("inclusion"):
            included = step.included(self.partition.example_id)
        with clock.part("batch"):
            batch = make_private_batch(
                self.partition,
                included,
                step=step.number,
                training=spec.training,
                schedule=spec.schedule,
                alphas_cumprod=self._alphas_cumprod,
                num_conditions=spec.data.num_classes,
                device="cpu",
            )
        with clock.part("clipped sum"):
            total = step.clipped_sum(
                self.state.model, batch, max_physical_batch_size=spec.runtime.max_physical_batch_size
            )
        with clock.part("noise"):
            gradient = step.release(total, SingleProcess())
        with clock.part("update"):
            start = 0
            for p in self.parameters:
                p.grad = gradient[start : start + p.numel()].reshape(p.shape).to(p.dtype)
                start += p.numel()
            self.state.apply()


def _summarise(clock: _Clock, spec: RunSpec, plan: PrivacyPlan, worker: _Worker, block: int) -> PrivacyOverhead:
    def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
        values = {name: 1000 * statistics.median(seconds[name]) for name in (*PRIVACY_PARTS, *OTHER_PARTS)}
        return {**values, "ledger": values["ledger"] / block}

    def ratio(values: dict[str, float]) -> float:
        return sum(values[name] for name in PRIVACY_PARTS) / sum(values.values())

    wall, cpu = medians(clock.wall), medians(clock.cpu)
    return PrivacyOverhead(
        wall_ms=wall,
        cpu_ms=cpu,
        step_ms=sum(wall.values()),
        overhead_ratio=ratio(wall),
        cpu_overhead_ratio=ratio(cpu),
        is_within_limit=ratio(wall) <= LIMIT,
        limit=LIMIT,
        ledger_block_ms=1000 * statistics.median(clock.wall["ledger"]),
        steps_a_block=block,
        measured_steps=len(clock.wall["noise"]),
        num_threads=torch.get_num_threads(),
        num_parameters=sum(p.numel() for p in worker.parameters),
        num_records=len(worker.partition),
        expected_batch_size=plan.expected_batch_size,
        noise_multiplicity=spec.training.noise_multiplicity,
    )


def table_lines(result: PrivacyOverhead) -> list[str]:
    """The result as a table of milliseconds a step, with the ratio below."""
    lines = [
        f"{result.num_parameters:,} parameters, {result.num_records:,} records, expected batch "
        f"{result.expected_batch_size:,.0f} x {result.noise_multiplicity} draws, {result.num_threads} threads; "
        f"medians of {result.measured_steps} steps",
        f"{'part of a step':<16}{'ms':>10}{'CPU ms':>10}{'share':>9}",
    ]
    for name, value in result.wall_ms.items():
        lines.append(f"{name:<16}{value:>10.2f}{result.cpu_ms[name]:>10.2f}{value / result.step_ms:>9.2%}")
    verdict = "within" if result.is_within_limit else "over"
    return [
        *lines,
        f"{'step':<16}{result.step_ms:>10.2f}{sum(result.cpu_ms.values()):>10.2f}",
        f"one charge takes {result.ledger_block_ms:.1f} ms and pays for {result.steps_a_block} steps",
        f"inclusion, noise and ledger are {result.overhead_ratio:.2%} of the step ({result.cpu_overhead_ratio:.2%} of "
        f"its CPU time), {verdict} the limit of {result.limit:.0%}",
    ]
