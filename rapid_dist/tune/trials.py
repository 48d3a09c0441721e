"""What operators see of a study: how many trials there are and how they go, never of one whose number is secret."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rapid_dist.errors import ArtifactError, SpecError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.privacy.charges import Charge
from rapid_dist.specs import RunSpec, parse_spec
from rapid_dist.specs.parsing import require, require_choice
from rapid_dist.storage.store import Store
from rapid_dist.tune.scorer import read_rungs

if TYPE_CHECKING:
    import pyarrow as pa


STATUSES = ("finished", "stopped", "failed", "running", "waiting")
_KEYS = b"rapid_dist.trial_keys"


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial; scores that are no finite number count as not measured, so that rows are always valid JSON.

    score, rungs: higher is better, whatever the objective; rungs are (training step, score). epsilon: what the
    trial's own charges cost alone, None where nothing private was read. seconds: wall time, for the owner's terminal
    alone where private images were read. Raises SpecError for an unknown status and for an infinite cost, noise or
    setting.
    """

    trial: str
    status: str  # finished | stopped (by the scheduler) | failed | running | waiting
    proposal: Mapping[str, Any]  # dotted key of the spec -> value
    score: float | None = None
    rungs: tuple[tuple[int, float], ...] = ()
    step: int = 0
    steps: int = 0
    noise_multiplier: float | None = None
    sample_rate: float | None = None
    expected_batch_size: float | None = None
    max_grad_norm: float | None = None
    epsilon: float | None = None
    attempts: int = 0
    seconds: float | None = None
    reason: str = ""  # why it failed

    def __post_init__(self) -> None:
        require_choice(f"status of {self.trial}", self.status, STATUSES)
        numbers = {name: getattr(self, name) for name in _FLOATS if name != "score"}
        for name, value in {**numbers, **self.proposal}.items():
            require(
                not isinstance(value, float) or math.isfinite(value),
                f"{name} of {self.trial} is {value}; expected a finite number, or null",
            )
        object.__setattr__(self, "score", _finite_or_none(self.score))
        rungs = ((int(step), float(score)) for step, score in self.rungs if _finite_or_none(score) is not None)
        object.__setattr__(self, "rungs", tuple(rungs))
        object.__setattr__(self, "proposal", dict(self.proposal))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        row = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**row, "proposal": dict(self.proposal), "rungs": [list(rung) for rung in self.rungs]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TrialRow:
        """What to_dict made. Raises SpecError for unknown or missing keys."""
        known = {f.name for f in dataclasses.fields(cls)}
        required = {"trial", "status", "proposal"}
        wrong = sorted((set(plain) - known) | (required - set(plain)))
        require(not wrong, f"a trial's row has unknown or lacks keys: {', '.join(wrong)}")
        rungs = tuple((step, score) for step, score in plain.get("rungs", ()))
        return cls(**{**plain, "rungs": rungs})


_FLOATS = (*("score", "noise_multiplier", "sample_rate", "expected_batch_size", "max_grad_norm", "epsilon", "seconds"),)
_INTEGERS = ("step", "steps", "attempts")


def space_keys(rows: Iterable[TrialRow]) -> list[str]:
    """The dotted keys that any row sets, in the order they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row.proposal))


def best_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """The finished row with the highest score, the earliest of equals; None when no finished row has a score."""
    scored = [row for row in rows if row.status == "finished" and row.score is not None]
    return max(scored, key=lambda row: row.score, default=None)  # max keeps the first of equals


def by_score(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Finished rows by falling score, then the others likewise, those without a score last; equals keep their order."""

    def place(row: TrialRow) -> tuple[bool, float]:
        return (row.status != "finished" or row.score is None, math.inf if row.score is None else -row.score)

    return sorted(rows, key=place)


def without_times(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The rows without their wall times, which depend on the private images that a trial read."""
    return [dataclasses.replace(row, seconds=None) for row in rows]


def trials_table(rows: Sequence[TrialRow]) -> bytes:
    """The rows as Parquet: the fixed columns, then one column for each dotted key, null where a row lacks it.

    There is no column of seconds when no row has any (without_times).

    Whole numbers and fractions under one key become float64; a key with values of several other kinds, or with
    lists, is a column of JSON texts. Raises SpecError when a key is named like a fixed column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = _column_types()
    if all(row.seconds is None for row in rows):
        del types["seconds"]
    fixed = [{**row.to_dict(), "rungs": [{"step": s, "score": v} for s, v in row.rungs]} for row in rows]
    columns = {name: pa.array([row[name] for row in fixed], kind) for name, kind in types.items()}
    encodings = {}
    for key in space_keys(rows):
        require(key not in _column_types(), f"the setting {key!r} is named like a fixed column; expected a dotted name")
        columns[key], encodings[key] = _setting_column([row.proposal.get(key) for row in rows])
        if any(key in row.proposal and row.proposal[key] is None for row in rows):
            present = [json.dumps(row.proposal[key]) if key in row.proposal else None for row in rows]
            columns[key], encodings[key] = pa.array(present, pa.string()), "json"
    table = pa.table(columns).replace_schema_metadata({_KEYS: json.dumps(encodings).encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_trials(data: bytes, *, where: str = "trials.parquet") -> list[TrialRow]:
    """The rows that trials_table saved. Raises ArtifactError when it is no such table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
        encodings = json.loads(table.schema.metadata[_KEYS])
        return [_row_of(plain, encodings) for plain in table.to_pylist()]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, SpecError):
        raise ArtifactError(f"{where} is not a table of trials of this program; run the study again") from None


def _column_types() -> dict[str, pa.DataType]:
    import pyarrow as pa

    rung = pa.struct([("step", pa.int64()), ("score", pa.float64())])
    special = {"rungs": pa.list_(rung)}
    special |= {name: pa.float64() for name in _FLOATS} | {name: pa.int64() for name in _INTEGERS}
    names = [f.name for f in dataclasses.fields(TrialRow) if f.name != "proposal"]
    return {name: special.get(name, pa.string()) for name in names}


def _setting_column(values: Sequence[Any]) -> tuple[pa.Array, str]:
    import pyarrow as pa

    kinds = {type(v) for v in values if v is not None}
    for accepted, kind in (({bool}, pa.bool_()), ({int}, pa.int64()), ({int, float}, pa.float64()), ({str}, None)):
        if kinds <= accepted:
            return pa.array(values, kind or pa.string()), "plain"
    return pa.array([None if v is None else json.dumps(v) for v in values], pa.string()), "json"


def _row_of(plain: Mapping[str, Any], encodings: Mapping[str, str]) -> TrialRow:
    proposal = {
        key: json.loads(plain[key]) if encoding == "json" else plain[key]
        for key, encoding in encodings.items()
        if plain[key] is not None
    }
    fixed = {key: value for key, value in plain.items() if key not in encodings}
    return TrialRow.from_dict(
        {**fixed, "proposal": proposal, "rungs": [(rung["step"], rung["score"]) for rung in plain["rungs"]]}
    )


def _finite_or_none(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


TRIAL, ENDED, TRAIN = "trial.json", "ended.json", "train"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial as it began. charges: all that it may charge. job: its name in the ledger."""

    name: str
    proposal: Mapping[str, Any]
    spec_yaml: str
    charges: tuple[Charge, ...]
    job: str
    tune_id: str = ""
    reason: str = ""  # why it never ran

    @property
    def spec(self) -> RunSpec:
        return parse_spec(self.spec_yaml)

    def to_bytes(self) -> bytes:
        plain = {**asdict(self), "charges": [c.to_dict() for c in self.charges]}
        return json.dumps(plain, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Trial:
        """What to_bytes wrote."""
        plain = json.loads(data)
        return cls(**{**plain, "charges": tuple(Charge.from_dict(c) for c in plain["charges"])})


@dataclass
class TrialBook:
    """The folder of all trials of a study; one process writes it."""

    store: Store
    _known: dict[str, Trial] = field(default_factory=dict)

    def folder(self, name: str) -> Store:
        """The folder of a trial."""
        return self.store.child(name)

    def names(self) -> list[str]:
        """All trials that ever began, in order."""
        found = json.loads(self.store.read_bytes("names.json")) if self.store.exists("names.json") else []
        return list(found)

    def get(self, name: str) -> Trial | None:
        """The trial of that name; None when it never began."""
        if name not in self._known:
            if not self.folder(name).exists(TRIAL):
                return None
            self._known[name] = Trial.from_bytes(self.folder(name).read_bytes(TRIAL))
        return self._known[name]

    def all(self) -> list[Trial]:
        """All trials that ever began, in order."""
        return [trial for name in self.names() if (trial := self.get(name)) is not None]

    def put(self, trial: Trial) -> None:
        """Keeps a trial that begins, or that Ray Tune begins again under another id; durable on return."""
        names = self.names()
        if trial.name not in names:
            self.store.write_bytes("names.json", json.dumps([*names, trial.name]).encode())
        self.folder(trial.name).write_bytes(TRIAL, trial.to_bytes())
        self._known[trial.name] = trial

    def end(self, name: str, *, status: str, reason: str, seconds: float) -> None:
        """Keeps how a trial ended."""
        plain = {"status": status, "reason": reason, "seconds": round(seconds, 1)}
        self.folder(name).write_bytes(ENDED, json.dumps(plain).encode())

    def reopen(self, name: str) -> None:
        """The trial goes on, however it ended before."""
        self.folder(name).delete(ENDED)

    def ending(self, name: str) -> dict[str, Any] | None:
        """How a trial ended: status, reason, seconds; None while it has not."""
        folder = self.folder(name)
        return json.loads(folder.read_bytes(ENDED)) if folder.exists(ENDED) else None

    def rungs(self, name: str) -> tuple[tuple[int, float], ...]:
        """The scores of a trial, by step."""
        return read_rungs(self.folder(name))


class TrialGauges:
    """Gauges of a study's trials.

    recorder: None for a secret study. Guarantee: then nothing about trials is recorded.
    """

    def __init__(self, recorder: Recorder | None, *, num_trials: int):
        self._recorder = recorder
        self._rows: dict[str, TrialRow] = {}
        if recorder is not None:
            recorder.set(catalog.PLANNED_TRIALS, num_trials)

    def show(self, rows: Iterable[TrialRow]) -> None:
        """Takes these trials as they are now; of each the newest row counts."""
        if self._recorder is None:
            return
        self._rows |= {row.trial: row for row in rows}
        counts = Counter(row.status for row in self._rows.values())
        for status in STATUSES:
            self._recorder.set(catalog.TRIALS, counts[status], status=status)
        best = best_row(list(self._rows.values()))
        if best is not None:
            self._recorder.set(catalog.BEST_SCORE, best.score)
