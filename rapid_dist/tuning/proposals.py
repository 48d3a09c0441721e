"""From a point of the search space to a complete run spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapid_dist.errors import SpecError
from rapid_dist.seeding import make_rng
from rapid_dist.specs import RunSpec
from rapid_dist.specs.axes import Axis
from rapid_dist.specs.parsing import from_mapping
from rapid_dist.specs.tuning import TuneSpec

Proposal = Mapping[str, Any]


def drawn_proposals(tune: TuneSpec, run: RunSpec, *, count: int, has_base: bool, seed: int) -> list[dict[str, Any]]:
    """count points of the space, each drawn on its own; the first is the spec as it stands when has_base."""
    base = [base_proposal(tune.space, run)] if has_base else []
    drawn = [
        {name: axis.draw(make_rng(seed, name, index)) for name, axis in tune.space.items()}
        for index in range(len(base), count)
    ]
    return [*base, *drawn][:count]


def base_proposal(space: Mapping[str, Axis], run: RunSpec) -> dict[str, Any]:
    """The settings of the space as the spec has them now."""
    return {name: _value_of(run, name) for name in space}


def apply_proposal(run: RunSpec, proposal: Proposal) -> RunSpec:
    """The run spec with the proposal's settings. Raises SpecError when together they make no sense.

    A query step that the proposed split has reached moves up with it, by the distance that the spec had.
    """
    plain = _plain_with(run, proposal)
    schedule = plain["schedule"]
    split, query, total = (schedule[k] for k in ("split_step", "query_step", "num_train_timesteps"))
    if query <= split < total:
        distance = max(1, run.schedule.query_step - run.schedule.split_step)
        if split + 1 >= total:
            raise SpecError(
                f"schedule.split_step is {split} of {total} timesteps, which leaves no room for a query step above it; "
                f"propose at most {total - 2}, or {total} for no retrieval"
            )
        schedule["query_step"] = min(split + distance, total - 1)
    return from_mapping(RunSpec, plain, "")


def with_settings(run: RunSpec, settings: Mapping[str, Any]) -> RunSpec:
    """The spec with other values of dotted settings, checked as a whole."""
    return from_mapping(RunSpec, _plain_with(run, settings), "")


def _plain_with(run: RunSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    plain = run.to_plain()
    for name, value in settings.items():
        section, _, key = name.partition(".")
        plain[section][key] = value
    return plain


def _value_of(run: RunSpec, name: str) -> Any:
    section, _, key = name.partition(".")
    return run.to_plain()[section][key]
