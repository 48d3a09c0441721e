"""What each trial of a study is told to run: its spec with its noise, its data and its ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rapid_dist.distributed.tuning.study import Study
from rapid_dist.errors import RapidDistError, SpecError
from rapid_dist.metrics.trials import TrialGauges
from rapid_dist.privacy.ledger import open_ledger
from rapid_dist.specs.tuning import COMPOSE, PUBLIC_PROXY, SUBSET
from rapid_dist.tuning.table import LiveTable
from rapid_dist.tuning.trials import TRAIN, Trial

_THROW_AWAY_EPSILON = 1000.0  # of a ledger of public images that pretend: it promises nothing to anyone


class TrialDesk:
    """Answers the trials of a study. One process holds it, and one trial begins at a time."""

    def __init__(self, study: Study, live: LiveTable, gauges: TrialGauges):
        self.study, self.live, self.book = study, live, study.book
        self._gauges = gauges
        self.show_all()
        self._lock, self._began = threading.Lock(), {}
        self._groups: dict[str, set[Any]] = {}

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answers a trial: begin (what to run), group (what its workers hold), ended, failed (it made no sense)."""
        kind = request["kind"]
        if kind == "begin":
            return self._begin(request)
        if kind == "group":
            self._groups.setdefault(request["trial"], set()).add(request["group"])
            return {}
        if kind == "ended":
            self.end(request["trial"], status=request["status"], reason=request["reason"])
            return {}
        self._failed(request["tune_id"], request["reason"])
        return {}

    def name_of(self, tune_id: str) -> str | None:
        """The trial that Ray Tune knows by this id."""
        return next((t.name for t in self.book.all() if t.tune_id == tune_id), None)

    def end(self, name: str, *, status: str, reason: str) -> None:
        """Keeps how a trial ended; the first word stands."""
        with self._lock:
            if self.book.ending(name) is None:
                seconds = time.monotonic() - self._began.get(name, time.monotonic())
                self.book.end(name, status=status, reason=reason, seconds=seconds)

    def ended(self, trial: Trial) -> None:
        """Frees what a trial held, and says that it has ended and how."""
        self.release(trial.name)
        row = self.study.row(trial)
        self.live.ended(row)
        self._gauges.show((row,))

    def release(self, name: str) -> None:
        """Gives back what groups of workers of a trial still claim on the cluster.

        Ray Train's own cleaner does so when a trial was stopped in mid-course, but not where several Rays run on one
        host, and the next trial would wait for ever.
        """
        import ray

        for group in self._groups.pop(name, ()):
            ray.util.remove_placement_group(group)

    def show_all(self) -> None:
        """Shows operators all trials as they are."""
        self._gauges.show(self.study.rows())

    def _failed(self, tune_id: str, reason: str) -> None:
        name = self.name_of(tune_id)
        if name is not None:
            self.end(name, status="failed", reason=reason)

    def _begin(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            trial = self._trial_of(request)
            self.release(trial.name)
            self.book.reopen(trial.name)
            self._began.setdefault(trial.name, time.monotonic())
        row = self.study.row(trial)
        self.live.began(row)
        self._gauges.show((replace(row, status="running"),))
        if trial.reason:
            raise SpecError(trial.reason)
        artefacts = self.study.shared.of(trial.spec)
        base = artefacts.knowledge_base
        folder = self.book.folder(trial.name)
        return {
            "trial": trial.name,
            "spec": trial.spec_yaml,
            "job": trial.job,
            "folder": folder.uri,
            "train": folder.child(TRAIN).uri,
            "images": self.study.images.uri,
            "reference": self.study.reference.uri,
            "pretrain": artefacts.pretrain.uri,
            "knowledge_base": None if base is None else base.uri,
            "ledger": self.study.ledger_of(trial).uri,
            "attempt_terms": self.study.trial_terms(),
        }

    def _trial_of(self, request: Mapping[str, Any]) -> Trial:
        """The trial as it began, or begun now: its noise is fixed once, and is known to all that follow."""
        candidate = request["candidate"]
        known = self.name_of(request["tune_id"])
        name = known or (f"t{candidate:04d}" if candidate is not None else f"t{len(self.book.names()):04d}")
        trial = self.book.get(name)
        if trial is None:
            trial = self._new_trial(name, request)
        elif trial.tune_id != request["tune_id"]:  # Ray Tune forgot it when it was killed
            trial = replace(trial, tune_id=request["tune_id"])
        else:
            return trial
        self.book.put(trial)
        return trial

    def _new_trial(self, name: str, request: Mapping[str, Any]) -> Trial:
        common = {
            "name": name,
            "proposal": dict(request["proposal"]),
            "job": f"{self.study.name}/{name}" if self.study.mode in (COMPOSE, SUBSET) else name,
            "tune_id": request["tune_id"],
        }
        try:
            planned = self.study.planned(request["proposal"])
        except RapidDistError as error:
            return Trial(**common, spec_yaml=self.study.spec.run.to_yaml(), charges=(), reason=str(error))
        trial = Trial(**common, spec_yaml=planned.spec.to_yaml(), charges=planned.charges)
        if self.study.mode == PUBLIC_PROXY:
            privacy = planned.spec.privacy
            open_ledger(
                self.study.ledger_of(trial),
                target_epsilon=_THROW_AWAY_EPSILON,
                target_delta=privacy.target_delta,
                neighboring_relation=privacy.neighboring_relation,
                unit=privacy.unit,
            )
        return trial
