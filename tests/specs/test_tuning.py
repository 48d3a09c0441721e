"""Study specs: what they hold, what they refuse and why."""

from __future__ import annotations

import pytest
import yaml

from rapid_dist.errors import InputError, SpecError
from rapid_dist.specs import load_spec, parse_spec
from rapid_dist.specs.study import MODES, Axis, StudySpec, load_study, parse_study

RUN = """
data: {private: p, public: q, num_classes: 3}
privacy: {target_epsilon: 2, target_delta: 1e-5, sample_rate: 0.05, nominal_size: 1000}
"""
SPACE = "tune: {space: {training.learning_rate: {log: [1e-4, 1e-2]}}}\n"


def study(*overrides: str, space: str | None = None) -> StudySpec:
    text = SPACE if space is None else f"tune: {{space: {space}}}\n"
    return parse_study(RUN + text, overrides=overrides)


def refusal(*overrides: str, space: str | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        study(*overrides, space=space)
    return str(caught.value)


def test_yaml_and_back_gives_the_same_study_and_digest():
    spec = study(
        "tune.mode=compose",
        "tune.scheduler=asha",
        "tune.num_rungs=3",
        "tune.objective=public_fid",
        "tune.proxy={private_classes: [1, 2], test_fraction: 0.3}",
        "tune.selection={num_runs: poisson, mean_runs: 5}",
        "tune.subset={sample_rate: 0.2, epsilon: 3, delta_share: 0.2}",
        "tune.max_concurrent=2",
        space="{schedule.split_step: {int: [300, 700], step: 100}, privacy.sample_rate: {log: [0.01, 0.1]}, "
        "training.steps: {log_int: [20, 200]}, schedule.kind: [linear, cosine], sampling.eta: {uniform: [0, 1]}}",
    )
    again = parse_study(spec.to_yaml())
    assert again == spec
    assert again.digest == spec.digest
    assert spec.tune.proxy.private_classes == (1, 2)


def test_a_minimal_study_round_trips_too_and_its_mode_stays_unnamed():
    spec = study()
    assert parse_study(spec.to_yaml()) == spec
    assert (spec.tune.mode, spec.tune.cost_mode, spec.tune.score_name) == (None, "public_proxy", "proxy_accuracy")


@pytest.mark.parametrize("mode", [m for m in MODES if m != "public_proxy"])
def test_on_private_data_trials_are_scored_by_a_paid_count(mode):
    assert study(f"tune.mode={mode}").tune.score_name == "noisy_accuracy"


def test_nested_and_dotted_spaces_are_the_same():
    dotted = study(space="{schedule.split_step: {int: [300, 700]}, training.steps: [10, 20]}")
    nested = study(space="{schedule: {split_step: {int: [300, 700]}}, training: {steps: [10, 20]}}")
    assert nested == dotted
    assert list(nested.tune.space) == ["schedule.split_step", "training.steps"]
    assert nested.tune.space["training.steps"] == Axis(kind="choice", values=(10, 20))


def test_overrides_reach_the_search_and_its_space():
    spec = study("tune.num_trials=3", "tune.space.training.steps=[5, 6]", "training.steps=7")
    assert spec.tune.num_trials == 3
    assert spec.run.training.steps == 7
    assert set(spec.tune.space) == {"training.learning_rate", "training.steps"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tune.mode=free", "tune.mode is 'free'; expected one of compose, public_proxy, repeat_select, subset"),
        ("tune.searcher=bayes", "tune.searcher is 'bayes'; expected one of hyperopt, optuna, random"),
        ("tune.scheduler=sha", "tune.scheduler is 'sha'; expected one of asha, fifo"),
        ("tune.objective=accuracy", "tune.objective is 'accuracy'"),
        ("tune.num_trials=0", "tune.num_trials is 0; expected a whole number above 0"),
        ("tune.num_trials=many", "tune.num_trials is 'many' (str); expected a whole number"),
        ("tune.num_rungs=0", "tune.num_rungs is 0"),
        ("tune.max_concurrent=0", "tune.max_concurrent is 0"),
        ("tune.max_failures=-1", "tune.max_failures is -1; expected a whole number of 0 or more"),
        ("tune.reduction_factor=1", "tune.reduction_factor is 1; expected a whole number of 2 or more"),
        ("tune.num_trails=3", "unknown key 'tune.num_trails': did you mean 'num_trials'?"),
        ("tune.proxy.classes=[1]", "unknown key 'tune.proxy.classes': did you mean 'private_classes'?"),
        ("tune.proxy.test_fraction=1", "tune.proxy.test_fraction is 1"),
        ("tune.selection.mean_runs=1", "tune.selection.mean_runs is 1.0; expected a number above 1"),
        ("tune.selection.mean_runs=.inf", "tune.selection.mean_runs is inf"),
        ("tune.selection.num_runs=fixed", "tune.selection.num_runs is 'fixed'"),
        ("tune.subset.sample_rate=1", "tune.subset.sample_rate is 1"),
        ("tune.subset.epsilon=0", "tune.subset.epsilon is 0"),
        ("tune.subset.delta_share=1", "tune.subset.delta_share is 1"),
        ("tune=3", "has no tune section"),
        ("tune.space=3", "has no tune.space"),
        ("tune.space={}", "tune.space is empty"),
        ("training.stepz=3", "unknown key 'training.stepz': did you mean 'steps'?"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(override, said):
    assert said in refusal(override)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("training.learning_rat", "did you mean 'learning_rate'?"),
        ("trainin.steps", "did you mean 'training'?"),
        ("training", "names 'training'"),
        ("schedule.query_stepp", "did you mean 'query_step'?"),
        ("data.num_classes", "which a trial may not change"),
        ("evaluation.classifier_epochs", "which a trial may not change"),
        ("runtime.num_workers", "which a trial may not change"),
        ("privacy.target_epsilon", "which a trial may not change"),
        ("privacy.nominal_size", "which a trial may not change"),
        ("privacy.noise_multiplier", "which a trial may not change"),
        ("privacy.spare_steps", "which a trial may not change"),
        ("privacy.debug_fixed_key", "which a trial may not change"),
        ("name", "names 'name'"),
    ],
)
def test_a_space_may_name_searchable_settings_only(name, said):
    assert said in refusal(space=f"{{{name}: [1, 2]}}")


@pytest.mark.parametrize("name", ["privacy.sample_rate", "privacy.max_grad_norm", "privacy.votes_noise_multiplier"])
def test_privacy_settings_that_are_paid_for_are_searchable(name):
    assert name in study(space=f"{{{name}: [0.1, 0.2]}}").tune.space


def test_an_axis_that_is_wrong_is_named_with_its_setting():
    assert "tune.space.training.steps.int is [20, 10]" in refusal(space="{training.steps: {int: [20, 10]}}")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{training.steps: {uniform: [10, 20]}}", "tune.space.training.steps is 10.0 (float); expected a whole number"),
        ("{training.steps: {log: [10, 20]}}", "tune.space.training.steps is 10.0 (float); expected a whole number"),
        ("{training.steps: [10, many]}", "tune.space.training.steps is 'many' (str); expected a whole number"),
        ("{privacy.sample_rate: [0.1, null]}", "tune.space.privacy.sample_rate is None (NoneType); expected a number"),
        ("{schedule.kind: [linear, true]}", "tune.space.schedule.kind is True; expected one of cosine, linear"),
        ("{training.steps: [10, -1]}", "tune.space.training.steps is -1; expected a whole number of 0 or more"),
        ("{sampling.eta: {uniform: [0, 2]}}", "tune.space.sampling.eta is 2.0; expected a number from 0 to 1"),
    ],
)
def test_an_axis_that_draws_no_value_of_its_setting_is_refused_at_once(space, said):
    assert said in refusal(space=space)


def test_an_end_that_a_setting_excludes_may_bound_an_interval_but_be_no_choice():
    assert study(space="{privacy.max_grad_norm: {uniform: [0, 1]}}").tune.space["privacy.max_grad_norm"].low == 0
    assert "privacy.max_grad_norm is 0.0" in refusal(space="{privacy.max_grad_norm: [0, 1]}")


def test_a_setting_that_is_searched_twice_is_refused():
    space = "{schedule.split_step: [300, 400], schedule: {split_step: [500, 600]}}"
    assert "tune.space names 'schedule.split_step' twice" in refusal(space=space)


def test_whole_numbers_are_values_of_a_fraction_and_nothing_of_an_optional_setting():
    space = "{privacy.max_grad_norm: {int: [1, 3]}, privacy.votes_noise_multiplier: [null, 5]}"
    assert study(space=space).tune.space["privacy.votes_noise_multiplier"].values == (None, 5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tune.scheduler=asha", "tune.num_rungs=3"], ["scheduler is 'asha'", "drawn alike and never watched"]),
        (["tune.num_rungs=2"], ["with 2 rungs", "never watched"]),
        (["tune.searcher=optuna"], ["searcher is 'optuna'", "learns from the scores of earlier trials"]),
        (["tune.searcher=hyperopt"], ["searcher is 'hyperopt'", "use searcher random, or mode compose"]),
        (["tune.space.privacy.sample_rate=[0.1, 0.2]"], ["privacy.sample_rate", "every trial must cost the same"]),
        (["tune.space.privacy.votes_noise_multiplier=[5, 9]"], ["privacy.votes_noise_multiplier", "cost the same"]),
        (["tune.space.training.steps=[10, 20]"], ["training.steps", "every trial must cost the same"]),
        (["tune.objective=proxy_accuracy"], ["'proxy_accuracy' in mode 'repeat_select'", "without paying"]),
    ],
)
def test_repeat_select_refuses_what_would_break_its_theorem(overrides, said):
    line = refusal("tune.mode=repeat_select", *overrides)
    assert [words for words in said if words not in line] == []


def test_repeat_select_may_search_what_costs_nothing():
    assert study("tune.mode=repeat_select", "tune.space.privacy.max_grad_norm=[0.5, 1]").tune.mode == "repeat_select"


@pytest.mark.parametrize("mode", [m for m in MODES if m != "public_proxy"])
def test_accuracy_on_private_records_is_never_free(mode):
    assert f"'proxy_accuracy' in mode '{mode}'" in refusal(f"tune.mode={mode}", "tune.objective=proxy_accuracy")


@pytest.mark.parametrize("mode", ["null", "public_proxy"])
def test_a_search_on_public_images_counts_no_private_record(mode):
    line = refusal(f"tune.mode={mode}", "tune.objective=noisy_accuracy")
    assert "which reads no private record" in line


def test_an_accuracy_needs_classes():
    assert "accuracy needs classes" in refusal("tune.mode=compose", "data.num_classes=0")
    assert study("tune.mode=compose", "data.num_classes=0", "tune.objective=public_fid").run.data.num_classes == 0


def test_a_scheduler_that_stops_trials_needs_rungs():
    assert "tune.scheduler is 'asha' but num_rungs is 1" in refusal("tune.scheduler=asha")
    assert study("tune.scheduler=asha", "tune.num_rungs=2").tune.scheduler == "asha"


def test_the_digest_covers_the_search_but_not_how_fast_it_goes():
    spec = study()
    assert study("tune.seed=1").digest != spec.digest
    assert study("tune.space.training.steps=[1, 2]").digest != spec.digest
    assert study("training.steps=7").digest != spec.digest
    assert study("tune.max_concurrent=3", "tune.max_failures=9", "runtime.num_workers=3").digest == spec.digest


def test_a_run_refuses_a_study_and_says_what_to_do(tmp_path):
    (tmp_path / "study.yaml").write_text(RUN + SPACE)
    with pytest.raises(SpecError, match="give it to `rapid-dist tune`, whose best") as caught:
        load_spec(str(tmp_path / "study.yaml"))
    assert "study.yaml has a tune section" in str(caught.value)


def test_a_study_refuses_a_run_and_says_what_to_do(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    with pytest.raises(SpecError, match=r"run.yaml has no tune section; add one .*, or use `rapid-dist run`"):
        load_study(str(tmp_path / "run.yaml"))
    with pytest.raises(InputError, match="does not exist"):
        load_study(str(tmp_path / "absent.yaml"))


def test_without_its_tune_section_a_study_is_the_run_it_says():
    plain = yaml.safe_load(study().to_yaml())
    plain.pop("tune")
    assert parse_spec(yaml.safe_dump(plain)) == study().run
