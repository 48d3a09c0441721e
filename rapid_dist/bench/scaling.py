"""Private training on one worker and on two, in turns, told apart by the project's own meter of training steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rapid_dist.bench.made_up import JOB, MadeUp, make_up
from rapid_dist.bench.privacy_overhead import ONCE_A_BLOCK
from rapid_dist.errors import SpecError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Buffer, Recorder
from rapid_dist.metrics.steps import PrivateStepMeter, StepMeter
from rapid_dist.privacy.plan import OneWorker, PrivacyPlan
from rapid_dist.specs import RunSpec
from rapid_dist.training.collective import Collective

LOOP = "bench"
PARTS = ("data", "gradient", "all_reduce", "noise", "update", "checkpoint", "ledger")


class MadeUpMeter(PrivateStepMeter):
    """The meter of private training, but with exact times of every step: its records are made up."""

    def __init__(self, recorder: Recorder):
        StepMeter.__init__(self, recorder, loop=LOOP, planned_steps=0, expected_batch_size=0)

    def _publish(self) -> None:
        StepMeter._publish(self)

    def close(self) -> None:
        """Shows what is left, the last checkpoint's time included."""
        self._publish()
        super().close()


@dataclass(frozen=True, kw_only=True)
class ScalingSettings:
    """rounds: pairs of turns; steps: of each turn, which is paid for by one charge and ends in one checkpoint."""

    rounds: int = 3
    steps: int = 10

    def require_room(self, plan: PrivacyPlan) -> None:
        """Raises SpecError when the turns take more steps than the spec's budget pays for."""
        wanted, paid_for = 2 * (self.rounds * self.steps + 1), plan.steps + plan.spare_steps
        if wanted > paid_for:
            raise SpecError(
                f"{self.rounds} rounds of two turns of {self.steps} steps, and one step before each, are {wanted} "
                f"steps; the spec's budget pays for {paid_for}: use fewer rounds or steps"
            )


def scaling_worker(collective: Collective, arguments: dict[str, Any]) -> dict[str, Any]:
    """What each of two workers does: its turns. Rank 0 answers with seconds.

    arguments: spec, plan, settings, ledger, out, say. While rank 0 trains alone, rank 1 waits in a sum.
    """
    spec, settings = arguments["spec"], arguments["settings"]
    torch.set_num_threads(1)
    made = make_up(spec)
    seconds: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
    for turn in range(1 + settings.rounds):  # the first turn warms up
        for world_size in ("1", "2"):
            if world_size == "2" or collective.rank == 0:
                workers = collective if world_size == "2" else OneWorker()
                steps = settings.steps if turn else 1
                parts = _turn(made, workers, arguments, f"{turn}-{world_size}", steps)
                seconds[world_size] += [parts] if turn else []
            collective.sum(torch.zeros(1))
    count = sum(p.numel() for p in made.model.parameters())
    return {"seconds": seconds, "num_parameters": count}


def _turn(made: MadeUp, workers: Collective, arguments: dict[str, Any], name: str, steps: int) -> dict[str, float]:
    """Seconds that rank 0's meter counted in each phase over the steps of one turn."""
    spec, plan, book = arguments["spec"], arguments["plan"], arguments["ledger"]
    shown = Buffer()
    made.train(
        spec,
        plan,
        ledger=book,
        workers=workers,
        folder=arguments["out"].child(name),
        steps=steps,
        checkpoint_every=steps,
        meter=MadeUpMeter(Recorder(shown)),
        statement_fn=lambda: book.statement_line(plan, job=JOB),
    )
    return _phases(shown)


def _phases(shown: Buffer) -> dict[str, float]:
    return {
        dict(labels)["phase"]: sum(values)
        for name, labels, values in shown.take()
        if name == catalog.PUBLIC_PHASE_SECONDS.name
    }


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Seconds a step and its parts, medians over rounds; a checkpoint and a charge count as one in checkpoint_every.

    efficiencies: t1 / (2 t2) of each round, whose two turns follow each other; efficiency: their median.
    """

    parts_one: dict[str, float]
    parts_two: dict[str, float]
    step_one: float
    step_two: float
    efficiencies: list[float]
    efficiency: float
    settings: ScalingSettings
    checkpoint_every: int
    num_records: int
    expected_batch_size: float
    noise_multiplicity: int
    num_parameters: int


def summarise_scaling(
    answer: Mapping[str, Any], spec: RunSpec, plan: PrivacyPlan, settings: ScalingSettings
) -> Scaling:
    """Returns what scaling_worker's answer comes to."""
    every = min(spec.training.checkpoint_every, plan.steps)

    def a_step(turn: Mapping[str, float]) -> dict[str, float]:
        return {name: turn.get(name, 0.0) / (every if name in ONCE_A_BLOCK else settings.steps) for name in PARTS}

    one, two = ([a_step(turn) for turn in answer["seconds"][w]] for w in ("1", "2"))
    parts_one, parts_two = ({p: statistics.median(t[p] for t in turns) for p in PARTS} for turns in (one, two))
    step_one, step_two = (statistics.median(sum(t.values()) for t in turns) for turns in (one, two))
    ratios = [sum(a.values()) / (2 * sum(b.values())) for a, b in zip(one, two, strict=True)]
    return Scaling(
        parts_one=parts_one,
        parts_two=parts_two,
        step_one=step_one,
        step_two=step_two,
        efficiencies=ratios,
        efficiency=statistics.median(ratios),
        settings=settings,
        checkpoint_every=every,
        num_records=spec.privacy.nominal_size,
        expected_batch_size=plan.expected_batch_size,
        noise_multiplicity=spec.training.noise_multiplicity,
        num_parameters=answer["num_parameters"],
    )


def table_lines(result: Scaling) -> list[str]:
    """Returns the result as a table."""
    r = result
    lines = [
        f"{r.num_parameters:,} parameters, {r.num_records:,} records, global batch {r.expected_batch_size:,.0f} x "
        f"{r.noise_multiplicity} draws, one thread a worker; medians of {r.settings.rounds} rounds of "
        f"{r.settings.steps} steps on 1 and then on 2 workers",
        f"{'part of a step':<16}{'1: ms':>10}{'share':>9}{'2: ms':>10}{'share':>9}",
    ]
    for name in PARTS:
        a, b = r.parts_one[name], r.parts_two[name]
        lines.append(f"{name:<16}{1e3 * a:>10.2f}{a / r.step_one:>9.2%}{1e3 * b:>10.2f}{b / r.step_two:>9.2%}")
    return [
        *lines,
        f"{'step':<16}{1e3 * r.step_one:>10.2f}{'':>9}{1e3 * r.step_two:>10.2f}",
        f"{'steps/s':<16}{1 / r.step_one:>10.2f}{'':>9}{1 / r.step_two:>10.2f}",
        f"efficiency t1 / (2 t2) = {r.efficiency:.1%}, rounds {', '.join(f'{e:.1%}' for e in r.efficiencies)}",
        f"times are rank 0's; all_reduce has the wait for the other worker in it; a charge and a checkpoint count as 1 "
        f"in {r.checkpoint_every} steps",
    ]
