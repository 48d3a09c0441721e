"""The whole run as one frozen spec, with YAML in, overrides, cross-section checks and a digest out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rapid_dist.errors import InputError, SpecError
from rapid_dist.specs.parsing import from_mapping, nearest_name, require, to_plain
from rapid_dist.specs.sections import (
    AutoencoderSpec,
    DataSpec,
    DenoiserSpec,
    EvaluationSpec,
    ExtractorSpec,
    KnowledgeBaseSpec,
    PretrainSpec,
    PrivacySpec,
    RuntimeSpec,
    SamplingSpec,
    ScheduleSpec,
    TrainingSpec,
)
from rapid_dist.storage.digest import digest_of
from rapid_dist.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run from two sets of images to synthetic images."""

    data: DataSpec
    privacy: PrivacySpec
    name: str = "run"
    autoencoder: AutoencoderSpec = field(default_factory=AutoencoderSpec)
    denoiser: DenoiserSpec = field(default_factory=DenoiserSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    pretrain: PretrainSpec = field(default_factory=PretrainSpec)
    extractor: ExtractorSpec = field(default_factory=ExtractorSpec)
    knowledge_base: KnowledgeBaseSpec = field(default_factory=KnowledgeBaseSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    runtime: RuntimeSpec = field(default_factory=RuntimeSpec)

    def __post_init__(self) -> None:
        retrieval = self.schedule.uses_retrieval
        votes = self.privacy.votes_noise_multiplier is not None
        classes = self.data.num_classes
        require(
            self.training.objective != "surrogate" or retrieval,
            "training.objective is 'surrogate' but schedule.split_step equals num_train_timesteps, so nothing is "
            "retrieved; lower split_step or use objective 'denoise'",
        )
        vote_users = {"sampling.starts": self.sampling.starts, "training.class_init": self.training.class_init}
        for name, value in vote_users.items():
            require(
                value != "votes" or votes,
                f"{name} is 'votes' but privacy.votes_noise_multiplier is not set; votes are a charged release",
            )
        require(not votes or classes > 0, "privacy.votes_noise_multiplier is set; votes need data.num_classes")
        require(
            self.sampling.starts != "votes" or retrieval,
            "sampling.starts is 'votes' but retrieval is off (split_step equals num_train_timesteps)",
        )
        proportions = self.sampling.class_proportions
        require(
            proportions is None or len(proportions) == classes,
            f"sampling.class_proportions has {len(proportions or ())} shares; expected data.num_classes = {classes}",
        )
        for public_class, private_class in self.knowledge_base.label_map.items():
            require(
                public_class >= 0 and 0 <= private_class < classes,
                f"knowledge_base.label_map has {public_class}: {private_class}; expected public class: private class "
                f"with private classes below data.num_classes = {classes}",
            )
        require(
            self.denoiser.kind != "unet" or self.autoencoder.kind == "identity",
            "denoiser.kind is 'unet' but autoencoder.kind is 'conv', whose latents are flat; use residual_mlp",
        )

    def to_plain(self) -> dict[str, Any]:
        return to_plain(self)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_plain(), sort_keys=False)

    def sections(self, *names: str) -> dict[str, Any]:
        """The named sections as plain values: what a stage's result depends on."""
        return {name: to_plain(getattr(self, name)) for name in names}

    def meaning(self) -> dict[str, Any]:
        """All sections that can change a result: everything but the runtime."""
        return {name: value for name, value in self.to_plain().items() if name != "runtime"}

    @property
    def digest(self) -> str:
        return digest_of(self.meaning())


def parse_spec(text: str, *, overrides: Iterable[str] = (), source: str = "spec") -> RunSpec:
    """Reads YAML text, applies `section.key=value` overrides, and checks the whole. Raises SpecError."""
    mapping = read_mapping(text, overrides=overrides, source=source)
    if "tune" in mapping:
        raise SpecError(
            f"{source} has a tune section, so it is a study: give it to `rapid-dist tune`, whose best.yaml is a spec "
            "for this command"
        )
    return from_mapping(RunSpec, mapping, "")


def load_spec(path: str, *, overrides: Iterable[str] = ()) -> RunSpec:
    """Reads a spec file, local or on s3://. Relative data paths in it are relative to the working directory."""
    return parse_spec(read_spec_file(path), overrides=overrides, source=path)


def read_spec_file(path: str) -> str:
    """The text of a spec file, local or on s3://. Raises InputError when it is not there, SpecError, StorageError."""
    folder, _, name = path.rpartition("/")
    store = Store(folder or ("/" if path.startswith("/") else "."))
    if store.is_local and not Path(path).is_file():
        raise InputError(f"spec file {path} does not exist; give the path of a YAML spec")
    data = store.read_bytes(name)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not text; expected a YAML spec") from None


def read_mapping(text: str, *, overrides: Iterable[str], source: str) -> dict[str, Any]:
    """YAML text as a mapping with overrides applied, not yet checked against any spec. Raises SpecError."""
    try:
        mapping = yaml.safe_load(text)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" at line {place.line + 1}" if place else ""
        raise SpecError(f"{source} is not YAML{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(mapping, dict):
        raise SpecError(f"{source} holds {type(mapping).__name__}; expected a mapping with sections such as data:")
    for override in overrides:
        _apply(mapping, override)
    return mapping


def _apply(mapping: dict[str, Any], override: str) -> None:
    name, separator, raw = override.partition("=")
    require(bool(separator) and bool(name), f"--set {override!r}; expected section.key=value")
    *sections, key = name.split(".")
    target = mapping
    for section in sections:
        if target.get(section) is None:  # absent, or left empty in the file
            target[section] = {}
        target = target[section]
        if not isinstance(target, dict):
            known = RunSpec.__dataclass_fields__
            raise SpecError(f"--set {override!r}: {section!r} is no section; {nearest_name(section, known)}")
    try:
        target[key] = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise SpecError(f"--set {override!r}: the value is not YAML") from None
