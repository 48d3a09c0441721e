"""The whole run as one frozen spec: checks across its sections, YAML and a digest out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import Field, model_validator

from rapid_dist.errors import SpecError
from rapid_dist.specs.files import read_mapping, read_spec_file
from rapid_dist.specs.parsing import Section, from_mapping, require, settings, to_plain
from rapid_dist.specs.private import PrivacySpec, StatisticsSpec, TrainingSpec
from rapid_dist.specs.sections import (
    AutoencoderSpec,
    DataSpec,
    DenoiserSpec,
    EvaluationSpec,
    ExtractorSpec,
    KnowledgeBaseSpec,
    PretrainSpec,
    RuntimeSpec,
    SamplingSpec,
    ScheduleSpec,
)
from rapid_dist.storage.digest import digest_of


@settings("")
class RunSpec:
    """One run from two sets of images to synthetic images."""

    data: Section[DataSpec] = Field()
    privacy: Section[PrivacySpec] = Field()
    name: str = Field(default="run", description="What the run is called in reports and metrics.")
    autoencoder: Section[AutoencoderSpec] = Field(default_factory=AutoencoderSpec)
    denoiser: Section[DenoiserSpec] = Field(default_factory=DenoiserSpec)
    schedule: Section[ScheduleSpec] = Field(default_factory=ScheduleSpec)
    pretrain: Section[PretrainSpec] = Field(default_factory=PretrainSpec)
    extractor: Section[ExtractorSpec] = Field(default_factory=ExtractorSpec)
    knowledge_base: Section[KnowledgeBaseSpec] = Field(default_factory=KnowledgeBaseSpec)
    statistics: Section[StatisticsSpec] = Field(default_factory=StatisticsSpec)
    training: Section[TrainingSpec] = Field(default_factory=TrainingSpec)
    sampling: Section[SamplingSpec] = Field(default_factory=SamplingSpec)
    evaluation: Section[EvaluationSpec] = Field(default_factory=EvaluationSpec)
    runtime: Section[RuntimeSpec] = Field(default_factory=RuntimeSpec)

    @model_validator(mode="after")
    def _check(self) -> RunSpec:
        retrieval = self.schedule.has_split
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
        self._check_statistics()
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
            f"denoiser.kind is 'unet' but autoencoder.kind is {self.autoencoder.kind!r}, whose latents are flat; use "
            "residual_mlp",
        )
        return self

    def _check_statistics(self) -> None:
        """Refuses a release that nothing uses or pays for, and starts that nothing releases."""
        split, steps, noise = self.schedule.split_step, self.training.steps, self.statistics.noise_multiplier
        require(
            self.releases_statistics or noise is None,
            f"statistics.noise_multiplier is {noise} but neither sampling.starts nor training.warm_up is 'statistics', "
            "so nobody would use what is released and paid for; set one of them to it",
        )
        require(
            split > 0 or (self.starts_from_statistics and steps == 0),
            "schedule.split_step is 0, which leaves the private model nothing to do; that needs sampling.starts "
            "'statistics' and training.steps 0",
        )
        require(
            steps > 0 or split == 0,
            f"training.steps is 0 but schedule.split_step is {split}, below which nothing would be trained; set "
            "split_step to 0 with sampling.starts 'statistics'",
        )
        require(
            self.training.warm_up == "none" or (steps > 0 and self.training.objective == "denoise"),
            "training.warm_up is 'statistics', which needs training.steps above 0 and training.objective 'denoise'",
        )
        require(
            not self.starts_from_statistics or self.schedule.has_split,
            "sampling.starts is 'statistics' but split_step equals num_train_timesteps, where every start is pure "
            "noise; lower split_step",
        )

    @property
    def releases_statistics(self) -> bool:
        """Whether statistics of the private classes are released."""
        return self.starts_from_statistics or self.training.warm_up == "statistics"

    @property
    def starts_from_statistics(self) -> bool:
        """Whether samples start from draws of the released statistics."""
        return self.sampling.starts == "statistics"

    @property
    def uses_retrieval(self) -> bool:
        """Whether anything is looked up in the knowledge base, so that one has to be built."""
        looks_up = (
            not self.starts_from_statistics
            or self.training.objective == "surrogate"
            or self.privacy.votes_noise_multiplier is not None
        )
        return self.schedule.has_split and looks_up

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
