import math

import pytest

from rapid_dist.errors import SpecError
from rapid_dist.specs import (
    AutoencoderSpec,
    DataSpec,
    DenoiserSpec,
    ExtractorSpec,
    KnowledgeBaseSpec,
    PretrainSpec,
    PrivacySpec,
    RuntimeSpec,
    SamplingSpec,
    ScheduleSpec,
    TrainingSpec,
)

PRIVACY = {"target_epsilon": 1.0, "target_delta": 1e-5, "sample_rate": 0.1, "nominal_size": 1000}
DATA = {"private": "a", "public": "b"}


def privacy(**changes) -> PrivacySpec:
    return PrivacySpec(**{**PRIVACY, **changes})


@pytest.mark.parametrize(("split", "query"), [(5, 5), (6, 5), (9, 9), (9, 0)])
def test_a_split_step_not_below_the_query_step_is_refused(split, query):
    with pytest.raises(SpecError, match="split_step must be below query_step"):
        ScheduleSpec(num_train_timesteps=10, split_step=split, query_step=query)


def test_a_split_step_just_below_the_query_step_is_retrieval():
    assert ScheduleSpec(num_train_timesteps=10, split_step=8, query_step=9).has_split


@pytest.mark.parametrize("query", [0, 9])
def test_a_split_step_equal_to_the_number_of_timesteps_turns_retrieval_off(query):
    assert not ScheduleSpec(num_train_timesteps=10, split_step=10, query_step=query).has_split


@pytest.mark.parametrize(
    "changes",
    [
        {"split_step": -1},
        {"split_step": 11},
        {"query_step": 10},
        {"query_step": -1},
        {"num_train_timesteps": 1, "split_step": 1, "query_step": 0},
        {"beta_start": 0.0},
        {"beta_start": 0.03, "beta_end": 0.02},
        {"beta_end": 1.0},
        {"kind": "quadratic"},
    ],
)
def test_a_schedule_out_of_range_is_refused(changes):
    with pytest.raises(SpecError):
        ScheduleSpec(**{"num_train_timesteps": 10, "split_step": 5, "query_step": 7, **changes})


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 100.5, math.inf, math.nan])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(SpecError, match="target_epsilon"):
        privacy(target_epsilon=epsilon)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-9, math.nan])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(SpecError, match="target_delta"):
        privacy(target_delta=delta)


def test_a_delta_above_one_over_the_nominal_size_is_refused():
    assert privacy(target_delta=1e-3).target_delta == 1e-3
    with pytest.raises(SpecError, match=r"more than 1/N = 0\.001"):
        privacy(target_delta=1.001e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_rate": 0.0},
        {"sample_rate": 1.01},
        {"sample_rate": math.nan},
        {"nominal_size": 0},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": math.inf},
        {"spare_steps": -1},
        {"votes_noise_multiplier": 0.0},
        {"votes_noise_multiplier": math.nan},
        {"neighboring_relation": "replace_one"},
    ],
)
def test_privacy_settings_out_of_range_are_refused(changes):
    with pytest.raises(SpecError, match=next(iter(changes))):
        privacy(**changes)


def test_the_normaliser_is_the_rate_times_the_public_size():
    assert privacy(sample_rate=0.25, nominal_size=200).expected_batch_size == 50


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (DataSpec, {**DATA, "image_size": 7}),
        (DataSpec, {**DATA, "image_size": 65}),
        (DataSpec, {**DATA, "num_channels": 2}),
        (DataSpec, {**DATA, "num_classes": -1}),
        (DataSpec, {**DATA, "num_classes": 2, "class_names": ("one",)}),
        (AutoencoderSpec, {"kind": "vae"}),
        (AutoencoderSpec, {"latent_dim": 0}),
        (DenoiserSpec, {"kind": "transformer"}),
        (DenoiserSpec, {"embedding_dim": 7}),
        (PretrainSpec, {"label_dropout": 1.0}),
        (PretrainSpec, {"ema_decay": 1.0}),
        (ExtractorSpec, {"temperature": 0.0}),
        (KnowledgeBaseSpec, {"space": "manhattan"}),
        (KnowledgeBaseSpec, {"method": "ivf"}),
        (KnowledgeBaseSpec, {"num_shards": 0}),
        (KnowledgeBaseSpec, {"assignment": "round_robin"}),
        (KnowledgeBaseSpec, {"serving": "http"}),
        (KnowledgeBaseSpec, {"num_probes": 0}),
        (TrainingSpec, {"objective": "score"}),
        (TrainingSpec, {"class_init": "random"}),
        (TrainingSpec, {"noise_multiplicity": 0}),
        (TrainingSpec, {"decay_fraction": 1.5}),
        (TrainingSpec, {"label_dropout": -0.1}),
        (SamplingSpec, {"eta": 1.1}),
        (SamplingSpec, {"eta": math.nan}),
        (SamplingSpec, {"guidance": -0.5}),
        (SamplingSpec, {"starts": "random"}),
        (SamplingSpec, {"class_proportions": (0.5, 0.4)}),
        (SamplingSpec, {"class_proportions": (1.5, -0.5)}),
        (RuntimeSpec, {"num_workers": 0}),
        (RuntimeSpec, {"max_physical_batch_size": 0}),
        (RuntimeSpec, {"max_failures": -1}),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(cls, changes):
    name = next(reversed(changes))
    with pytest.raises(SpecError, match=name):
        cls(**changes)


def test_a_group_is_fixed_or_has_a_range():
    assert RuntimeSpec().worker_range == (1, 1)
    assert RuntimeSpec(num_workers=3).worker_range == (3, 3)
    assert RuntimeSpec(min_workers=1, max_workers=4).worker_range == (1, 4)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"min_workers": 2}, "expected both"),
        ({"max_workers": 2}, "expected both"),
        ({"min_workers": 3, "max_workers": 2}, "1 <= min <= max"),
        ({"min_workers": 0, "max_workers": 2}, "1 <= min <= max"),
        ({"min_workers": 1, "max_workers": 2, "num_workers": 2}, "one or the other"),
        ({"resize_seconds": 0}, "resize_seconds is 0"),
    ],
)
def test_a_range_of_workers_that_makes_no_sense_is_refused(settings, word):
    with pytest.raises(SpecError, match=word):
        RuntimeSpec(**settings)
