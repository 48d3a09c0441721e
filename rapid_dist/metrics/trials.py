"""What operators see of a study: how many trials there are and how they go, never of one whose number is secret."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Recorder
from rapid_dist.tuning.results import STATUSES, TrialRow, best_row


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
