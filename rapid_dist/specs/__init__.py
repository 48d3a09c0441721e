"""What a run is, as frozen values: parsed from YAML, checked when made, digested, never guessed."""

from rapid_dist.specs.private import PrivacySpec, StatisticsSpec, TrainingSpec
from rapid_dist.specs.run import RunSpec, load_spec, parse_spec
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

__all__ = [
    "AutoencoderSpec",
    "DataSpec",
    "DenoiserSpec",
    "EvaluationSpec",
    "ExtractorSpec",
    "KnowledgeBaseSpec",
    "PretrainSpec",
    "PrivacySpec",
    "RunSpec",
    "RuntimeSpec",
    "SamplingSpec",
    "ScheduleSpec",
    "StatisticsSpec",
    "TrainingSpec",
    "load_spec",
    "parse_spec",
]
