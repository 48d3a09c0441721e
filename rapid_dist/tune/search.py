"""What Ray Tune is given: searchers and schedulers by name, and what watches its trials."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from ray.tune import Callback

from rapid_dist.errors import InputError
from rapid_dist.specs.study import REPEAT_SELECT, Axis, StudySpec
from rapid_dist.tune.costs import base_proposal, drawn_proposals
from rapid_dist.tune.desk import TrialDesk
from rapid_dist.tune.trials import Trial


def make_searcher(study: StudySpec) -> Any:
    """Ray Tune's search algorithm; None for random, whose candidates are drawn beforehand.

    Raises InputError when its package is not installed.
    """
    tune = study.tune
    if tune.searcher == "random":
        return None
    start = [base_proposal(tune.space, study.run)] if tune.include_base else None
    space = {name: tune_domain(axis) for name, axis in tune.space.items()}
    try:
        package = importlib.import_module(tune.searcher)
    except ImportError as error:
        raise InputError(
            f"tune.searcher is {tune.searcher!r} but its package is not installed; `pip install {tune.searcher}`, or "
            "use searcher random"
        ) from error
    if tune.searcher == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        package.logging.set_verbosity(package.logging.WARNING)
        own = OptunaSearch.convert_search_space(space)
        return OptunaSearch(own, metric="score", mode="max", seed=tune.seed, points_to_evaluate=start)
    from ray.tune.search.hyperopt import HyperOptSearch

    own = HyperOptSearch.convert_search_space(space)
    return HyperOptSearch(own, metric="score", mode="max", random_state_seed=tune.seed, points_to_evaluate=start)


def candidates(study: StudySpec, count: int, seed: int) -> dict[str, Any]:
    """All candidates, drawn alike and beforehand; the first is the spec as it stands unless it would be told apart."""
    from ray import tune

    has_base = study.tune.include_base and study.tune.cost_mode != REPEAT_SELECT
    drawn = drawn_proposals(study.tune, study.run, count=count, has_base=has_base, seed=seed)
    return {"point": tune.grid_search([{"candidate": i, "proposal": p} for i, p in enumerate(drawn)])}


def make_scheduler(study: StudySpec) -> Any:
    """Returns Ray Tune's scheduler: FIFO, or ASHA over the rungs that trials report."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    tune = study.tune
    if tune.scheduler == "asha":
        return ASHAScheduler(
            time_attr="rung",
            max_t=tune.num_rungs,
            grace_period=1,
            reduction_factor=tune.reduction_factor,
        )
    return FIFOScheduler()


def tune_domain(axis: Axis) -> Any:
    """An axis in Ray Tune's words."""
    from ray import tune

    if axis.kind == "choice":
        return tune.choice(list(axis.values))
    if axis.kind == "uniform":
        return tune.uniform(axis.low, axis.high)
    if axis.kind == "log":
        return tune.loguniform(axis.low, axis.high)
    if axis.kind == "log_int":
        return tune.lograndint(int(axis.low), int(axis.high) + 1)
    if axis.step > 1:
        return tune.choice(list(range(int(axis.low), int(axis.high) + 1, axis.step)))
    return tune.randint(int(axis.low), int(axis.high) + 1)


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
