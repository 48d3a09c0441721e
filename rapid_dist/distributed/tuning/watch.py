"""What Ray Tune says of its trials, as lines for people and as endings in the study's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray.tune import Callback

from rapid_dist.distributed.tuning.begin import TrialDesk
from rapid_dist.tuning.trials import Trial

# One study a process. Ray Tune pickles its callbacks, so they hold none themselves.
_watched: TrialDesk | None = None


@contextlib.contextmanager
def watching(trials: TrialDesk) -> Iterator[None]:
    """While the block runs every StudyWatch of this process speaks of this study."""
    global _watched
    _watched = trials
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
        known, step = _trial_of(_watched, trial), int(result.get("step", 0))
        if known is not None and 0 < step < known.spec.training.steps:
            _watched.live.rung(known.name, step, float(result["score"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Finished or failed, as the trial itself has said; else stopped by the scheduler."""
        if _watched is None:
            return
        known = _trial_of(_watched, trial)
        if known is not None:
            _watched.end(known.name, status="stopped", reason="")
            _watched.ended(known)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """A trial whose process was lost: it may begin again, and what it held must be free for it."""
        if _watched is not None and (known := _trial_of(_watched, trial)) is not None:
            _watched.release(known.name)


def _trial_of(trials: TrialDesk, trial: Any) -> Trial | None:
    name = trials.name_of(trial.trial_id)
    return None if name is None else trials.book.get(name)
