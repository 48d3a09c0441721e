"""What keyed inclusion, secure noise and the ledger cost of a training step, measured inside real steps."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rapid_dist.bench.made_up import MadeUp, make_up
from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.metrics.steps import PrivateStepMeter
from rapid_dist.privacy.clipping import choose_engine, clipped_gradient_sum
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.ledger import open_ledger
from rapid_dist.privacy.plan import OneWorker, PrivacyPlan
from rapid_dist.specs import RunSpec
from rapid_dist.storage.store import Store
from rapid_dist.training.plan import build_plan, private_run
from rapid_dist.training.private_data import make_private_batch

LIMIT = 0.05
PRIVACY_PARTS = ("inclusion", "noise", "ledger")
OTHER_PARTS = ("data", "gradient", "update", "checkpoint")
ONCE_A_BLOCK = ("checkpoint", "ledger")
_BLOCKS = 10
# Rows on which engines are compared: Opacus holds a gradient for each, 0.6 GB of them at a million parameters.
_ROWS, _ROUNDS = 128, 3
# What rapid_dist/recipes/rapid.yaml says of a step of private training.
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

    A charge (ledger_block_ms) and a checkpoint count as one in steps_a_block steps.
    overhead_ratio: inclusion, noise and ledger over the whole step, in wall time; cpu_overhead_ratio in CPU time.
    opacus_over_ours: CPU time of the clipped gradient by Opacus's hooks over that of the engine used, on equal rows.
    """

    wall_ms: dict[str, float]
    cpu_ms: dict[str, float]
    step_ms: float
    overhead_ratio: float
    cpu_overhead_ratio: float
    clipping_engine: str
    opacus_over_ours: float
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


class _Clock(PrivateStepMeter):
    """The meter of private training, which keeps wall and CPU seconds of each time that a phase ran."""

    def __init__(self) -> None:
        super().__init__(Recorder(), planned_steps=0, expected_batch_size=0)
        self.runs: dict[str, list[tuple[float, float]]] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.runs.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))


def measure_privacy_overhead(spec: RunSpec, *, num_steps: int = 20, num_threads: int | None = None) -> PrivacyOverhead:
    """Trains one worker for num_steps steps on random latents of the spec's shapes, and times each part.

    The loop is that of private training, with short blocks, so that checkpoints are measured more than once. Charges of
    whole blocks and inclusion are timed after it. The first of each part is not counted. The ledger is a folder on this
    disk.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        with tempfile.TemporaryDirectory(prefix="rapid-dist-bench-") as folder:
            return _measure(spec, Store(folder), num_steps)
    finally:
        torch.set_num_threads(before)


def _measure(spec: RunSpec, folder: Store, num_steps: int) -> PrivacyOverhead:
    plan, made, clock = build_plan(spec), make_up(spec), _Clock()
    steps = min(num_steps + 1, plan.steps)
    attempt = made.train(
        spec,
        plan,
        ledger=open_ledger(folder.child("ledger"), **plan.ledger_terms()),
        workers=OneWorker(),
        folder=folder.child("checkpoints"),
        steps=steps,
        checkpoint_every=max(1, steps // _BLOCKS),
        meter=clock,
    )
    block = min(spec.training.checkpoint_every, plan.steps)
    clock.runs["ledger"] = []  # a charge of few steps is counted sooner than one of training
    ledger = open_ledger(folder.child("charges"), **plan.ledger_terms())
    number = ledger.begin_attempt(plan.to_plain())
    for first in range(0, min(_BLOCKS, plan.steps // block) * block, block):
        with clock.phase("ledger"):
            ledger.charge_up_to(plan.training_charge(1), block, attempt=number, first_step=first)
    for step in range(steps):
        with clock.phase("inclusion"):
            draw_inclusion(
                attempt.key,
                attempt=attempt.number,
                step=step,
                example_ids=made.partition.example_id,
                sample_rate=plan.sample_rate,
            )
    return _summarise(clock, spec, plan, made, block)


def _opacus_over_ours(spec: RunSpec, plan: PrivacyPlan, made: MadeUp) -> float:
    """The ratio of medians over rounds in which each engine takes the same examples; the first round is not counted."""
    run = private_run(spec, plan, made.alphas_cumprod, device="cpu")
    included = np.arange(len(made.partition)) < max(1, _ROWS // spec.training.noise_multiplicity)
    batch = make_private_batch(made.partition, included, run, step=0)
    seconds: dict[str, list[float]] = {run.clipping_engine: [], "opacus": []}
    for _ in range(_ROUNDS + 1):
        for engine, taken in seconds.items():
            before = time.process_time()
            clipped_gradient_sum(
                denoising_loss,
                made.model,
                batch.rows(),
                rows_per_example=batch.rows_per_example,
                max_grad_norm=plan.max_grad_norm,
                engine=engine,
            )
            taken.append(time.process_time() - before)
    return float(np.median(seconds["opacus"][1:]) / np.median(seconds[run.clipping_engine][1:]))


def _summarise(clock: _Clock, spec: RunSpec, plan: PrivacyPlan, made: MadeUp, block: int) -> PrivacyOverhead:
    counted = {name: np.array(runs[1:] or runs) for name, runs in clock.runs.items()}

    def medians(column: int) -> dict[str, float]:
        values = {name: 1000 * float(np.median(counted[name][:, column])) for name in (*PRIVACY_PARTS, *OTHER_PARTS)}
        values["data"] -= values["inclusion"]  # which the loop counts as data
        return {name: value / (block if name in ONCE_A_BLOCK else 1) for name, value in values.items()}

    def ratio(values: dict[str, float]) -> float:
        return sum(values[name] for name in PRIVACY_PARTS) / sum(values.values())

    wall, cpu = medians(0), medians(1)
    return PrivacyOverhead(
        wall_ms=wall,
        cpu_ms=cpu,
        step_ms=sum(wall.values()),
        overhead_ratio=ratio(wall),
        cpu_overhead_ratio=ratio(cpu),
        clipping_engine=choose_engine(made.model, spec.runtime.clipping_engine),
        opacus_over_ours=_opacus_over_ours(spec, plan, made),
        is_within_limit=ratio(wall) <= LIMIT,
        limit=LIMIT,
        ledger_block_ms=wall["ledger"] * block,
        steps_a_block=block,
        measured_steps=len(counted["noise"]),
        num_threads=torch.get_num_threads(),
        num_parameters=sum(p.numel() for p in made.model.parameters()),
        num_records=len(made.partition),
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
        f"the clipped gradient by Opacus's hooks takes {result.opacus_over_ours:.2f} of the CPU time of the engine "
        f"{result.clipping_engine}",
    ]
