"""What Ray Tune says of its trials, as lines for people and as endings in the study's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray.tune import Callback

from rapid_dist.distributed.tune_study import Study
from rapid_dist.tuning.table import LiveTable
from rapid_dist.tuning.trials import Trial

# One study a process. Ray Tune pickles its callbacks, so they hold none themselves.
_watched: tuple[Study, LiveTable] | None = None


@contextlib.contextmanager
def watching(study: Study, live: LiveTable) -> Iterator[None]:
    """While the block runs every StudyWatch of this process speaks of this study."""
    global _watched
    _watched = study, live
    try:
        yield
    finally:
        _watched = None


class StudyWatch(Callback):
    """Says rungs and endings, and notes trials that the scheduler stopped; it holds nothing and so can be pickled."""

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A rung, or the last score, which is said when the trial ends."""
        if _watched is None or "score" not in result:
            return
        study, live = _watched
        known, step = _trial_of(study, trial), int(result.get("step", 0))
        if known is not None and 0 < step < known.spec.training.steps:
            live.rung(known.name, step, float(result["score"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Finished or failed, as the trial itself has said; else stopped by the scheduler."""
        if _watched is None:
            return
        study, live = _watched
        known = _trial_of(study, trial)
        if known is not None:
            study.end(known.name, status="stopped", reason="")
            live.ended(study.row(known))


def _trial_of(study: Study, trial: Any) -> Trial | None:
    name = study.name_of(trial.trial_id)
    return None if name is None else study.book.get(name)
