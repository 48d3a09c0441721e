"""Ray Tune's searchers and schedulers by the names of a spec, and its words for our axes."""

from __future__ import annotations

import importlib
from typing import Any

from rapid_dist.errors import InputError
from rapid_dist.specs.axes import Axis
from rapid_dist.specs.tuning import REPEAT_SELECT, StudySpec
from rapid_dist.tuning.proposals import base_proposal, drawn_proposals


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
