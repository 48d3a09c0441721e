"""What is kept of every trial that began, in files, so that a study that was killed knows all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rapid_dist.artifacts.storage import Store
from rapid_dist.privacy.charges import Charge
from rapid_dist.specs import RunSpec, parse_spec
from rapid_dist.tuning.scorer import read_rungs

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
