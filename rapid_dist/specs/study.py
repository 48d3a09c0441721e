"""A study: a run spec with a `tune:` section that says what is searched, how, and how it is paid for."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, StrictBool, StrictInt, WithJsonSchema, model_validator

from rapid_dist.errors import SpecError
from rapid_dist.specs.axes import AXIS_SCHEMA, Axis, parse_axis
from rapid_dist.specs.files import read_mapping, read_spec_file
from rapid_dist.specs.parsing import (
    Count,
    ListOf,
    Number,
    PositiveNumber,
    Section,
    check_value,
    from_mapping,
    nearest_name,
    require,
    settings,
    to_plain,
)
from rapid_dist.specs.run import RunSpec
from rapid_dist.storage.digest import digest_of

Mode = Literal["public_proxy", "repeat_select", "compose", "subset"]
PUBLIC_PROXY, REPEAT_SELECT, COMPOSE, SUBSET = MODES = typing.get_args(Mode)
# What a trial may change. The rest says which data, which promise, or how results are measured.
SEARCHABLE = (
    "autoencoder",
    "denoiser",
    "schedule",
    "pretrain",
    "extractor",
    "knowledge_base",
    "privacy.sample_rate",
    "privacy.max_grad_norm",
    "privacy.votes_noise_multiplier",
    "statistics",
    "training",
    "sampling",
)
_PLACE = ("max_concurrent", "cpus_per_trial", "max_failures")  # where and how fast; in no digest


def _space(written: Any) -> Any:
    """Returns axes by dotted name, from axes or from what a spec file holds. Raises SpecError."""
    if not isinstance(written, Mapping):
        raise SpecError(f"tune.space is {written!r}; expected settings and the values they may take")
    axes = {}
    for name, value in _flat(written).items():
        _require_searchable(name)
        axes[name] = value if isinstance(value, Axis) else parse_axis(f"tune.space.{name}", value)
        _require_values(name, axes[name])
    return axes


_SPACE_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "patternProperties": {
        r"\.": AXIS_SCHEMA,  # training.steps: [...]
        r"^[^.]*$": {"type": "object", "additionalProperties": AXIS_SCHEMA},  # training: {steps: [...]}
    },
}
# A plain dict of dataclasses after the validator, which has checked both.
Space = Annotated[Any, BeforeValidator(_space), WithJsonSchema(_SPACE_SCHEMA)]


@settings("tune.proxy")
class ProxySpec:
    """How public images are divided into knowledge and pretend-private ones."""

    private_classes: ListOf[StrictInt] | None = Field(
        default=None, description="The public classes that pretend to be private; null is the upper half of them."
    )
    test_fraction: Number = Field(
        default=0.2, gt=0, lt=1, description="The share of pretend-private images that is held out to score trials."
    )


@settings("tune.selection")
class SelectionSpec:
    """The law of the secret number of trials under repeat_select."""

    num_runs: Literal["geometric", "logarithmic", "poisson"] = Field(
        default="geometric",
        description="The law of the number of trials; logarithmic is the cheapest, often of one trial.",
    )
    mean_runs: Number = Field(default=8.0, gt=1, description="The mean number of trials.")


@settings("tune.subset")
class SubsetSpec:
    """The secret part of the private records that trials may use, and what they may cost on it."""

    sample_rate: Number = Field(
        default=0.1, gt=0, lt=1, description="The probability with which a private record is in the subset."
    )
    epsilon: PositiveNumber = Field(
        default=2.0,
        description="The epsilon of all trials together on the subset; on the whole it is less, by the subset's rate.",
    )
    delta_share: Number = Field(
        default=0.1, gt=0, lt=1, description="The share of privacy.target_delta that is spent on the trials."
    )


@settings("tune")
class TuneSpec:
    """The search around a run: which settings, in which order, and how private data is paid for."""

    space: Space = Field(
        description="The settings that are searched, by dotted name such as training.steps or section by section, and "
        "the values they may take: a list, or one of {uniform: [low, high]}, {log: [low, high]}, {int: [low, high], "
        "step: 1} and {log_int: [low, high]}, ends included."
    )
    mode: Mode | None = Field(
        default=None,
        description="How private data is paid for: public_proxy reads none, repeat_select releases the winner only, "
        "compose counts every trial, subset tunes on a secret part. Null searches as public_proxy and states no "
        "epsilon.",
    )
    num_trials: Count = Field(
        default=16,
        description="How many trials there are. Under repeat_select tune.selection draws the number in secret.",
    )
    searcher: Literal["random", "optuna", "hyperopt"] = Field(
        default="random", description="Who proposes settings: chance, or a library that learns from earlier trials."
    )
    scheduler: Literal["fifo", "asha"] = Field(
        default="fifo", description="fifo finishes every trial; asha stops the worse ones at each rung."
    )
    objective: Literal["proxy_accuracy", "public_fid", "noisy_accuracy"] | None = Field(
        default=None,
        description="What trials are scored by; null is proxy_accuracy on public data, else noisy_accuracy.",
    )
    accuracy_noise_multiplier: PositiveNumber = Field(
        default=20.0, description="The stddev of the noise on the count of right answers, for noisy_accuracy."
    )
    num_rungs: Count = Field(default=1, description="How often a trial is scored; asha needs at least 2.")
    reduction_factor: StrictInt = Field(default=3, ge=2, description="asha keeps one in this many trials at each rung.")
    include_base: StrictBool = Field(default=True, description="Whether the first trial is the spec as it stands.")
    num_scored_samples: Count = Field(default=2000, description="How many images are drawn to score a trial.")
    classifier_epochs: Count = Field(default=4, description="How many times the scoring classifier sees its images.")
    max_concurrent: Count | None = Field(
        default=None, description="How many trials run at once; null is as many as the session has room for."
    )
    cpus_per_trial: Count | None = Field(
        default=None,
        description="How many CPUs a trial takes; null is all that one task may have, and a group of workers takes "
        "what it needs.",
    )
    max_failures: StrictInt = Field(default=2, ge=0, description="How often a trial is restarted after a failure.")
    seed: StrictInt = Field(default=0, description="The seed of all proposals.")
    proxy: Section[ProxySpec] = Field(default_factory=ProxySpec)
    selection: Section[SelectionSpec] = Field(default_factory=SelectionSpec)
    subset: Section[SubsetSpec] = Field(default_factory=SubsetSpec)

    @model_validator(mode="after")
    def _check(self) -> TuneSpec:
        require(bool(self.space), "tune.space is empty; name at least one setting and the values it may take")
        scheduler, mode, objective = self.scheduler, self.cost_mode, self.score_name
        if mode == REPEAT_SELECT:
            self._check_selection()
        require(
            scheduler == "fifo" or self.num_rungs >= 2,
            f"tune.scheduler is {scheduler!r} but num_rungs is {self.num_rungs}; it decides between rungs: use 2 or "
            "more",
        )
        require(
            objective != "proxy_accuracy" or mode == PUBLIC_PROXY,
            f"tune.objective is 'proxy_accuracy' in mode {mode!r}, where accuracy would be measured on private "
            "records without paying; use noisy_accuracy or public_fid",
        )
        require(
            objective != "noisy_accuracy" or mode != PUBLIC_PROXY,
            "tune.objective is 'noisy_accuracy' in mode 'public_proxy', which reads no private record; use "
            "proxy_accuracy or public_fid",
        )
        return self

    def _check_selection(self) -> None:
        """Papernot and Steinke's theorem needs runs that are drawn alike, cost alike and are not watched."""
        require(
            self.scheduler == "fifo" and self.num_rungs == 1,
            f"tune.scheduler is {self.scheduler!r} with {self.num_rungs} rungs in mode 'repeat_select': a trial "
            "that is stopped by its score makes others depend on it, and the guarantee holds only for runs "
            "that are drawn alike and never watched; use scheduler fifo and num_rungs 1, or mode compose",
        )
        require(
            self.searcher == "random",
            f"tune.searcher is {self.searcher!r} in mode 'repeat_select': it learns from the scores of earlier trials; "
            "use searcher random, or mode compose",
        )
        costly = [n for n in self.space if n.startswith("privacy.") and n != "privacy.max_grad_norm"]
        costly += [n for n in self.space if n in ("training.steps", "statistics.noise_multiplier", "sampling.starts")]
        require(
            not costly,
            f"tune.space has {', '.join(costly)} in mode 'repeat_select', where every trial must cost the same; leave "
            "them fixed, or use mode compose",
        )

    @property
    def cost_mode(self) -> str:
        """The mode the study runs in; unnamed it is the one that reads no private record."""
        return self.mode or PUBLIC_PROXY

    @property
    def score_name(self) -> str:
        """The objective that trials are scored by."""
        return self.objective or ("proxy_accuracy" if self.cost_mode == PUBLIC_PROXY else "noisy_accuracy")


@settings("")
class StudySpec:
    """A base run and the search around it."""

    run: RunSpec
    tune: TuneSpec

    @model_validator(mode="after")
    def _check(self) -> StudySpec:
        require(
            self.tune.score_name != "noisy_accuracy" or self.run.data.num_classes > 0,
            "tune.objective is 'noisy_accuracy' but data.num_classes is 0; accuracy needs classes: use public_fid",
        )
        require(
            self.run.training.steps > 0,
            "training.steps is 0 in a study; trials are scored while they train: set the steps of the base run",
        )
        return self

    def to_plain(self) -> dict[str, Any]:
        space = {name: axis.to_plain() for name, axis in self.tune.space.items()}
        return {**self.run.to_plain(), "tune": {**to_plain(self.tune), "space": space}}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_plain(), sort_keys=False)

    def meaning(self) -> dict[str, Any]:
        """All that can change a result."""
        tune = {k: v for k, v in self.to_plain()["tune"].items() if k not in _PLACE}
        return {**self.run.meaning(), "tune": tune}

    @property
    def digest(self) -> str:
        return digest_of(self.meaning())


def parse_study(text: str, *, overrides: Iterable[str] = (), source: str = "spec") -> StudySpec:
    """Reads a run spec with a tune section. Raises SpecError."""
    mapping = read_mapping(text, overrides=overrides, source=source)
    section = mapping.pop("tune", None)
    if not isinstance(section, Mapping):
        raise SpecError(f"{source} has no tune section; add one with mode and space, or use `rapid-dist run`")
    if not isinstance(section.get("space"), Mapping):
        raise SpecError(f"{source} has no tune.space; expected settings and the values they may take")
    return StudySpec(run=from_mapping(RunSpec, mapping, ""), tune=from_mapping(TuneSpec, section, "tune"))


def load_study(path: str, *, overrides: Iterable[str] = ()) -> StudySpec:
    """Reads a study's file. Raises InputError when it is not there, SpecError for what is wrong in it."""
    return parse_study(read_spec_file(path), overrides=overrides, source=path)


def _flat(space: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name; `schedule: {split_step: ...}` is the same as `schedule.split_step: ...`."""
    flat: dict[str, Any] = {}
    for name, value in space.items():
        nested = isinstance(value, Mapping) and "." not in str(name)
        for full, axis in (
            {f"{name}.{key}": inner for key, inner in value.items()}.items() if nested else [(name, value)]
        ):
            require(full not in flat, f"tune.space names {full!r} twice; keep one of the two")
            flat[str(full)] = axis
    return flat


def _section_class(name: str) -> type | None:
    """The class of a section of a run, None for what is no section."""
    hint = typing.get_type_hints(RunSpec).get(name)
    return hint if dataclasses.is_dataclass(hint) else None


def _require_searchable(name: str) -> None:
    section, _, key = name.partition(".")
    sections = [f.name for f in dataclasses.fields(RunSpec)]
    require(section in sections, f"tune.space names {name!r}: {nearest_name(section, sections)}")
    cls = _section_class(section)
    names = [f.name for f in dataclasses.fields(cls)] if cls else []
    require(key in names, f"tune.space names {name!r}: {nearest_name(key, names)}")
    require(
        section in SEARCHABLE or name in SEARCHABLE,
        f"tune.space names {name!r}, which a trial may not change: it says which data, which promise or how results "
        f"are measured; searchable: {', '.join(SEARCHABLE)}",
    )


def _require_values(name: str, axis: Axis) -> None:
    """Raises SpecError when what the axis draws is no value of the setting, such as fractions of a whole number."""
    section, _, key = name.partition(".")
    inset = 1e-6 * (axis.high - axis.low) if axis.kind in ("uniform", "log") else 0
    for value in axis.examples():
        try:
            check_value(_section_class(section), key, value, f"tune.space.{name}")
        except SpecError:
            # An end that the setting excludes, such as a rate of 0, is drawn with probability 0.
            if not inset or not _is_value(name, min(max(value, axis.low + inset), axis.high - inset)):
                raise


def _is_value(name: str, value: Any) -> bool:
    section, _, key = name.partition(".")
    try:
        check_value(_section_class(section), key, value, name)
    except SpecError:
        return False
    return True
