"""The audit on a group of workers: every layer's runs, what they showed, and the bounds on epsilon."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rapid_dist.audit.canaries import canary_scores
from rapid_dist.audit.checks import Check, Recording, replay_checks, restart_checks, steps_with_record, violations
from rapid_dist.audit.estimators import LowerBounds, lower_bounds
from rapid_dist.audit.moments import inclusion_checks, noise_checks
from rapid_dist.audit.observe import LEDGER, StatingBook, Trial, observe
from rapid_dist.audit.source import source_layer
from rapid_dist.audit.source_files import KINDS
from rapid_dist.audit.trials import (
    REPLAY_KEY,
    RESTART,
    THE_RECORD,
    AuditSettings,
    canary_trial,
    replay_trials,
    restart_trial,
)
from rapid_dist.storage.store import Store
from rapid_dist.training.collective import Collective, agree

ROOM = 0.01  # a bound may exceed the claim by this much before it counts: the claim itself is computed to less
LEAST_STRENGTH = 0.5  # of the claim, which the GDP estimate must reach with every record in every step


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """The canaries of all rounds of one kind: their scores and coins (n,), and epsilon as claimed and as bounded.

    setting: sample_rate, noise_multiplier, steps and delta of each round.
    """

    name: str
    setting: dict[str, float]
    scores: np.ndarray
    is_in: np.ndarray
    claimed_epsilon: float
    bounds: LowerBounds

    def checks(self) -> tuple[Check, ...]:
        """No bound may be over the claim."""
        high = self.claimed_epsilon + ROOM
        return tuple(
            Check(layer="canaries", name=f"{self.name}: epsilon is at least ({reading})", found=value, high=high)
            for reading, value in asdict(self.bounds).items()
        )

    def strength(self) -> Check:
        """The GDP estimate must come near the claim: an audit that finds nothing must have been able to."""
        name = f"{self.name}: GDP estimate over the claim, which shows the strength of the audit"
        share = self.bounds.gdp / self.claimed_epsilon
        return Check(layer="canaries", name=name, found=share, low=LEAST_STRENGTH)

    def to_plain(self) -> dict[str, Any]:
        """The numbers without the scores."""
        return {
            **self.setting,
            "num_canaries": len(self.scores),
            "claimed_epsilon": self.claimed_epsilon,
            "gdp_estimate": self.bounds.gdp,
            "one_run_lower_bound": self.bounds.one_run,
            "clopper_pearson_lower_bound": self.bounds.clopper_pearson,
        }


def judge_canaries(
    name: str,
    setting: dict[str, float],
    scores: np.ndarray,
    is_in: np.ndarray,
    *,
    claimed_epsilon: float,
    significance: float,
) -> CanaryResult:
    """Bounds epsilon from the pooled canaries of all rounds; setting holds delta."""
    bounds = lower_bounds(scores, is_in, delta=setting["delta"], significance=significance)
    return CanaryResult(
        name=name, setting=setting, scores=scores, is_in=is_in, claimed_epsilon=claimed_epsilon, bounds=bounds
    )


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """All checks of all layers; full_batch is the run with every record in every step, sampled the given mechanism."""

    checks: tuple[Check, ...]
    full_batch: CanaryResult
    sampled: CanaryResult

    @property
    def all_checks(self) -> tuple[Check, ...]:
        return (*self.checks, *self.full_batch.checks(), self.full_batch.strength(), *self.sampled.checks())

    @property
    def violations(self) -> tuple[Check, ...]:
        return violations(self.all_checks)

    @property
    def passed(self) -> bool:
        return not self.violations

    def to_plain(self) -> dict[str, Any]:
        """One JSON object; the numbers at its top are those of the run with every record in every step."""
        layers: dict[str, dict[str, int]] = {}
        for check in self.all_checks:
            layer = layers.setdefault(check.layer, {"checks": 0, "violations": 0})
            layer["checks"] += 1
            layer["violations"] += not check.passed
        full = self.full_batch.to_plain()
        headline = ("claimed_epsilon", "gdp_estimate", "one_run_lower_bound", "clopper_pearson_lower_bound")
        return {
            **{name: full[name] for name in headline},
            "passed": self.passed,
            "violations": [check.words for check in self.violations],
            "full_batch": full,
            "sampled": self.sampled.to_plain(),
            "layers": layers,
            "checks": [check.to_plain() for check in self.all_checks],
        }


Run = Callable[[Trial], Recording]
Told = Callable[[int, str], None]


def num_runs(settings: AuditSettings) -> int:
    """How many training runs the audit makes, each kind of source counted as one."""
    trials = 2 * len(replay_trials(settings)) + 1 + settings.full_batch_rounds + settings.sampled_rounds
    return len(KINDS) + trials


def run_battery(
    collective: Collective,
    settings: AuditSettings,
    work: Store,
    *,
    told: Told = lambda done, what: None,
    restart_book: StatingBook | None = None,
) -> AuditResult | None:
    """Runs every trial on this group; rank 0 gets the result, the others None.

    work: a folder that all workers see. told(done, name) hears of each finished run. restart_book: what writes the
    ledger of the run with a restart, in restart_ledger(work).
    """
    runs = Runs(collective, work, told, {RESTART: restart_book})
    # Made-up files on the disk of rank 0, which takes the shares of a group of its own; the others wait for it.
    files = agree(collective, lambda: _source_checks(settings, runs.done_one) if collective.rank == 0 else ())
    layers = [files, replay_layer(settings, runs), restart_layer(settings, runs)]
    full, exact = canary_layer(settings, runs, is_full_batch=True)
    sampled, _ = canary_layer(settings, runs, is_full_batch=False)
    if collective.rank > 0:
        return None
    return AuditResult(
        checks=tuple(check for layer in (*layers, exact) for check in layer), full_batch=full, sampled=sampled
    )


def _source_checks(settings: AuditSettings, told: Callable[[str], None]) -> tuple[Check, ...]:
    with tempfile.TemporaryDirectory(prefix="rapid-dist-audit-") as folder:
        return source_layer(settings, Store(folder), told=told)


def restart_ledger(work: Store) -> Store:
    """Where the ledger of the run with a restart lies."""
    return _folder(work, RESTART).child(LEDGER)


def _folder(work: Store, name: str) -> Store:
    return work.child(name.replace(" ", "-"))


class Runs:
    """Runs trials one after the other, each in a folder of its own."""

    def __init__(self, collective: Collective, work: Store, told: Told, books: Mapping[str, StatingBook | None]):
        self._collective, self._work, self._told, self._books, self._done = collective, work, told, books, 0

    def __call__(self, trial: Trial) -> Recording:
        folder, book = _folder(self._work, trial.name), self._books.get(trial.name)
        recording = observe(trial, self._collective, folder, book)
        self.done_one(trial.name)
        return recording

    def done_one(self, name: str) -> None:
        """Tells that one more run is done, from rank 0."""
        self._done += 1
        if self._collective.rank == 0:
            self._told(self._done, name)


def replay_layer(settings: AuditSettings, run: Run) -> tuple[Check, ...]:
    """D against D minus one record, for every kind of record."""
    found: list[Check] = []
    for having, lacking, own in replay_trials(settings):
        one, other = run(having), run(lacking)
        plan = having.plan
        included = steps_with_record(THE_RECORD, REPLAY_KEY, attempts=one.attempts, sample_rate=plan.sample_rate)
        found += replay_checks(
            one,
            other,
            included=included,
            own=own,
            grid=plan.grid / plan.max_grad_norm,
            name=having.name,
        )
    return tuple(found)


def restart_layer(settings: AuditSettings, run: Run) -> tuple[Check, ...]:
    """Noise, inclusion and ledger over a run that failed once and went on."""
    trial = restart_trial(settings)
    seen = run(trial)
    checks = restart_checks(seen, trial.plan)
    if not len(seen.released):
        return checks
    pure = seen.released[:, : -settings.num_sampled] / trial.plan.noise_multiplier
    parts = seen.clipped_sums[:, -settings.num_sampled :]
    return (
        *checks,
        *noise_checks(pure, where=trial.name),
        _whole_parts([parts], [np.round(parts)], trial.name),
        *inclusion_checks(parts > 0.5, sample_rate=trial.plan.sample_rate),
    )


def canary_layer(settings: AuditSettings, run: Run, *, is_full_batch: bool) -> tuple[CanaryResult, tuple[Check, ...]]:
    """Pooled rounds of canaries: the bounds on epsilon; with every record in every step also checks of each value."""
    rounds = [
        (*canary_trial(settings, number, is_full_batch=is_full_batch),)
        for number in range(settings.full_batch_rounds if is_full_batch else settings.sampled_rounds)
    ]
    seen = [run(trial) for trial, _ in rounds]
    plan, coins = rounds[0][0].plan, [coin for _, coin in rounds]
    released = [s.released[:, -settings.num_canaries :] for s in seen]
    name = "every record in every step" if is_full_batch else f"sampled at {plan.sample_rate:g}"
    scores = [canary_scores(x, sample_rate=plan.sample_rate, noise_multiplier=plan.noise_multiplier) for x in released]
    result = judge_canaries(
        name,
        {
            "sample_rate": plan.sample_rate,
            "noise_multiplier": plan.noise_multiplier,
            "steps": plan.steps,
            "delta": plan.target_delta,
        },
        np.concatenate(scores),
        np.concatenate(coins),
        claimed_epsilon=max(s.public["epsilon"] for s in seen),
        significance=settings.significance,
    )
    if not is_full_batch:
        return result, ()
    noise = [(x - coin) / plan.noise_multiplier for x, coin in zip(released, coins, strict=True)]
    parts = [s.clipped_sums[:, -settings.num_canaries :] for s in seen]
    return result, (*noise_checks(np.concatenate(noise), where=name), _whole_parts(parts, coins, name))


def _whole_parts(parts: list[np.ndarray], expected: list[np.ndarray], where: str) -> Check:
    """A record that is in moves the clipped sum by one clipping norm, one that is not by nothing."""
    found = max(float(np.abs(p - e).max()) for p, e in zip(parts, expected, strict=True))
    name = f"{where}: a canary's part of the clipped sum differs from 0 or 1 by"
    return Check(layer="canaries", name=name, found=found, high=1e-5)
