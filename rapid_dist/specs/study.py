"""A study: a run spec with a `tune:` section that says what is searched, how, and how it is paid for."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from rapid_dist.errors import SpecError
from rapid_dist.specs.parsing import from_mapping, nearest_name, require, require_choice, require_positive, to_plain
from rapid_dist.specs.run import RunSpec, read_mapping, read_spec_file
from rapid_dist.storage.digest import digest_of

KINDS = ("choice", "uniform", "log", "int", "log_int")
Value = Any


@dataclass(frozen=True, kw_only=True)
class Axis:
    """kind: choice of values; uniform or log between low and high; int or log_int between them, both included."""

    kind: str
    values: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: int = 1  # of int

    def draw(self, rng: np.random.Generator) -> Value:
        """One value, by its law: choices alike, numbers uniform, or uniform in the logarithm."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        if self.kind == "uniform":
            return float(rng.uniform(self.low, self.high))
        if self.kind == "log":
            return self._within(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        if self.kind == "int":
            return int(self.low) + self.step * int(rng.integers((int(self.high) - int(self.low)) // self.step + 1))
        drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return int(self._within(round(drawn)))

    def examples(self) -> tuple[Value, ...]:
        """Values of every kind that draw may return: all choices, or both ends."""
        if self.kind == "choice":
            return self.values
        return tuple(int(e) if self.kind in ("int", "log_int") else e for e in (self.low, self.high))

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    @property
    def is_log(self) -> bool:
        """Whether the axis reads best on a logarithmic scale."""
        return self.kind in ("log", "log_int")

    def to_plain(self) -> Any:
        """As written in a spec."""
        if self.kind == "choice":
            return {"choice": list(self.values)}
        return {self.kind: list(self.examples()), **({"step": self.step} if self.step != 1 else {})}


def parse_axis(name: str, value: Any) -> Axis:
    """A list is a choice; else one of {choice: [...]}, {uniform: [a, b]}, {log: ...}, {int: ...}, {log_int: ...}.

    Raises SpecError.
    """
    if isinstance(value, list | tuple):
        value = {"choice": value}
    if not isinstance(value, Mapping):
        raise SpecError(f"{name} is {value!r}; expected a list of values, or one of {', '.join(KINDS)}")
    value = dict(value)
    step = value.pop("step", 1)
    if len(value) != 1:
        raise SpecError(f"{name} has {sorted(map(str, value))}; expected exactly one of {', '.join(KINDS)}")
    ((kind, content),) = value.items()
    require(kind in KINDS, f"{name} has {kind!r}: {nearest_name(str(kind), KINDS)}")
    if not isinstance(content, list | tuple) or not content:
        raise SpecError(f"{name}.{kind} is {content!r}; expected a list")
    if kind == "choice":
        require(step == 1, f"{name} has a step, which belongs to int")
        return Axis(kind=kind, values=tuple(_number(v) for v in content))
    ends = [_number(v) for v in content]
    numeric = all(isinstance(e, int | float) and not isinstance(e, bool) and math.isfinite(e) for e in ends)
    if len(ends) != 2 or not numeric or not ends[0] < ends[1]:
        raise SpecError(f"{name}.{kind} is {content!r}; expected two numbers, the lower first")
    if kind in ("int", "log_int"):
        require(all(float(e).is_integer() for e in ends), f"{name}.{kind} is {content!r}; expected whole numbers")
    require(kind not in ("log", "log_int") or ends[0] > 0, f"{name}.{kind} is {content!r}; expected numbers above 0")
    require(
        step == 1 or (kind == "int" and isinstance(step, int) and step >= 1),
        f"{name}.step is {step!r}; expected a whole number of at least 1, with int",
    )
    return Axis(kind=kind, low=float(ends[0]), high=float(ends[1]), step=step)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 (no dot) as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


PUBLIC_PROXY, REPEAT_SELECT, COMPOSE, SUBSET = MODES = ("public_proxy", "repeat_select", "compose", "subset")
SEARCHERS = ("random", "optuna", "hyperopt")
SCHEDULERS = ("fifo", "asha")
OBJECTIVES = ("proxy_accuracy", "public_fid", "noisy_accuracy")
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
    "training",
    "sampling",
)
_PLACE = ("max_concurrent", "cpus_per_trial", "max_failures")  # where and how fast; in no digest


@dataclass(frozen=True, kw_only=True)
class ProxySpec:
    """How public images are divided into knowledge and pretend-private ones."""

    private_classes: tuple[int, ...] | None = None  # public classes that pretend; None: the upper half of them
    test_fraction: float = 0.2  # of the pretend-private images, held out to score trials

    def __post_init__(self) -> None:
        require(
            0 < self.test_fraction < 1, f"tune.proxy.test_fraction is {self.test_fraction}; expected between 0 and 1"
        )


@dataclass(frozen=True, kw_only=True)
class SelectionSpec:
    """The law of the secret number of trials under repeat_select."""

    num_runs: str = "geometric"  # geometric, logarithmic (cheapest, often one run) or poisson
    mean_runs: float = 8.0

    def __post_init__(self) -> None:
        require_choice("tune.selection.num_runs", self.num_runs, ("geometric", "logarithmic", "poisson"))
        require(
            math.isfinite(self.mean_runs) and self.mean_runs > 1,
            f"tune.selection.mean_runs is {self.mean_runs}; expected a number above 1",
        )


@dataclass(frozen=True, kw_only=True)
class SubsetSpec:
    """The secret part of the private records that trials may use, and what they may cost on it."""

    sample_rate: float = 0.1  # each private record is in the subset with this probability
    epsilon: float = 2.0  # of all trials together, on the subset; less on the whole, by the subset's rate
    delta_share: float = 0.1  # of privacy.target_delta, spent on the trials

    def __post_init__(self) -> None:
        require(0 < self.sample_rate < 1, f"tune.subset.sample_rate is {self.sample_rate}; expected between 0 and 1")
        require_positive(self, "tune.subset", "epsilon")
        require(0 < self.delta_share < 1, f"tune.subset.delta_share is {self.delta_share}; expected between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class TuneSpec:
    """The search. space: dotted names of settings and the values they may take."""

    space: dict[str, Axis]
    mode: str | None = None  # how private data is paid for; None searches as public_proxy and states no epsilon
    num_trials: int = 16  # under repeat_select the number is drawn by tune.selection, in secret
    searcher: str = "random"
    scheduler: str = "fifo"
    objective: str | None = None  # None: proxy_accuracy on public data, else noisy_accuracy
    accuracy_noise_multiplier: float = 20.0  # noise on the count of right answers, for noisy_accuracy
    num_rungs: int = 1  # how often a trial is scored; asha needs at least 2
    reduction_factor: int = 3  # asha keeps one in this many trials at each rung
    include_base: bool = True  # the first trial is the spec as it stands
    num_scored_samples: int = 2000  # images drawn to score a trial
    classifier_epochs: int = 4  # of the scoring classifier
    max_concurrent: int | None = None  # None: as many as the session has room for
    cpus_per_trial: int | None = None  # None: all that one task may have; a group of workers takes what it needs
    max_failures: int = 2  # restarts of a trial
    seed: int = 0
    proxy: ProxySpec = field(default_factory=ProxySpec)
    selection: SelectionSpec = field(default_factory=SelectionSpec)
    subset: SubsetSpec = field(default_factory=SubsetSpec)

    def __post_init__(self) -> None:
        if self.mode is not None:
            require_choice("tune.mode", self.mode, MODES)
        require_choice("tune.searcher", self.searcher, SEARCHERS)
        require_choice("tune.scheduler", self.scheduler, SCHEDULERS)
        if self.objective is not None:
            require_choice("tune.objective", self.objective, OBJECTIVES)
        names = ("num_trials", "accuracy_noise_multiplier", "num_rungs", "num_scored_samples", "classifier_epochs")
        require_positive(self, "tune", *names)
        require(self.reduction_factor >= 2, f"tune.reduction_factor is {self.reduction_factor}; expected 2 or more")
        require(self.max_failures >= 0, f"tune.max_failures is {self.max_failures}; expected 0 or more")
        require(bool(self.space), "tune.space is empty; name at least one setting and the values it may take")
        for name in ("max_concurrent", "cpus_per_trial"):
            if getattr(self, name) is not None:
                require_positive(self, "tune", name)
        self._check_rules()

    def _check_rules(self) -> None:
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
        costly += [n for n in self.space if n == "training.steps"]
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


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A base run and the search around it."""

    run: RunSpec
    tune: TuneSpec

    def __post_init__(self) -> None:
        require(
            self.tune.score_name != "noisy_accuracy" or self.run.data.num_classes > 0,
            "tune.objective is 'noisy_accuracy' but data.num_classes is 0; accuracy needs classes: use public_fid",
        )

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
    section = dict(section)
    space = section.pop("space", None)
    if not isinstance(space, Mapping):
        raise SpecError(f"{source} has no tune.space; expected settings and the values they may take")
    axes = {name: parse_axis(f"tune.space.{name}", value) for name, value in _flat(space).items()}
    for name, axis in axes.items():
        _require_searchable(name)
        _require_type(name, axis)
    known = {f.name for f in dataclasses.fields(TuneSpec)} - {"space"}
    for key in section:
        require(str(key) in known, f"unknown key 'tune.{key}': {nearest_name(str(key), known)}")
    hints = {k: v for k, v in typing.get_type_hints(TuneSpec).items() if k in known}
    plain = dataclasses.make_dataclass("tune", [(k, hints[k], field(default=None)) for k in section])
    checked = from_mapping(plain, section, "tune")
    tune = TuneSpec(space=axes, **{k: getattr(checked, k) for k in section})
    return StudySpec(run=from_mapping(RunSpec, mapping, ""), tune=tune)


def load_study(path: str, *, overrides: Iterable[str] = ()) -> StudySpec:
    """Reads a study's file. Raises InputError when it is not there, SpecError for what is wrong in it."""
    return parse_study(read_spec_file(path), overrides=overrides, source=path)


def _flat(space: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name; `schedule: {split_step: ...}` is the same as `schedule.split_step: ...`."""
    flat: dict[str, Any] = {}
    for name, value in space.items():
        if isinstance(value, Mapping) and "." not in str(name):
            flat |= {f"{name}.{key}": axis for key, axis in value.items()}
        else:
            flat[str(name)] = value
    return flat


def _require_searchable(name: str) -> None:
    section, _, key = name.partition(".")
    sections = {f.name: f for f in dataclasses.fields(RunSpec)}
    require(section in sections, f"tune.space names {name!r}: {nearest_name(section, sections)}")
    fields = typing.get_type_hints(RunSpec)[section]
    names = [f.name for f in dataclasses.fields(fields)] if dataclasses.is_dataclass(fields) else []
    require(key in names, f"tune.space names {name!r}: {nearest_name(key, names)}")
    require(
        section in SEARCHABLE or name in SEARCHABLE,
        f"tune.space names {name!r}, which a trial may not change: it says which data, which promise or how results "
        f"are measured; searchable: {', '.join(SEARCHABLE)}",
    )


def _require_type(name: str, axis: Axis) -> None:
    """Raises SpecError when what the axis draws is no value of the setting, such as fractions of a whole number."""
    section, _, key = name.partition(".")
    hint = typing.get_type_hints(typing.get_type_hints(RunSpec)[section])[key]
    of_one = dataclasses.make_dataclass(section, [(key, hint)])
    for value in axis.examples():
        from_mapping(of_one, {key: value}, f"tune.space.{section}")
