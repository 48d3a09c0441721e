"""Spec files: what YAML would drop or change without a word is refused with the line and the advice."""

from __future__ import annotations

import pytest

from rapid_dist.errors import SpecError
from rapid_dist.specs import parse_spec
from rapid_dist.specs.files import read_yaml
from rapid_dist.specs.study import parse_study

TEXT = """data: {private: p, public: q, num_classes: 2}
privacy:
  target_epsilon: 2
  target_delta: 1e-5
  sample_rate: 0.05
  nominal_size: 1000
"""


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, overrides=overrides, source="my.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_repeated_target_is_refused_and_does_not_raise_the_budget():
    line = refusal(TEXT + "  target_epsilon: 20\n")
    assert line.startswith("my.yaml line 7 repeats 'privacy.target_epsilon', first given at line 3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT + "privacy: {target_epsilon: 9}\n", "line 7 repeats 'privacy', first given at line 2"),
        (TEXT + "training: {steps: 5, seed: 1, steps: 6}\n", "line 7 repeats 'training.steps', first given at line 7"),
        (TEXT + "training: {steps: 5, 'steps': 6}\n", "repeats 'training.steps'"),
        (TEXT + "knowledge_base: {label_map: {1: 0, 01: 1}}\n", "repeats 'knowledge_base.label_map.01'"),
        (TEXT + "training: &t {steps: 5, steps: 6}\nsampling: *t\n", "repeats 'training.steps'"),
        (TEXT + "sampling: {class_proportions: [{a: 1, a: 2}]}\n", "repeats 'sampling.class_proportions.a'"),
    ],
)
def test_a_repeated_key_is_refused_at_any_depth(text, said):
    assert said in refusal(text)


def test_a_study_and_an_override_may_not_repeat_keys_either():
    space = "tune:\n  space: {training.steps: [1, 2]}\n  space: {training.seed: [1, 2]}\n"
    with pytest.raises(SpecError, match=r"line 9 repeats 'tune\.space', first given at line 8"):
        parse_study(TEXT + space)
    line = refusal(TEXT, "training={steps: 5, steps: 6}")
    assert line.startswith("--set 'training={steps: 5, steps: 6}' line 1 repeats 'training.steps'")


def test_equal_keys_of_different_sections_and_merged_mappings_are_no_repeats():
    text = TEXT + "training: &base {seed: 3, learning_rate: 0.1}\nsampling: {seed: 3}\n"
    assert parse_spec(text).sampling.seed == 3
    assert read_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}\n", "s") == {"a": {"x": 1}, "b": {"x": 2}}
    assert read_yaml("a: &a [1]\nb: *a\n", "s") == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("010", 8),
        ("1:30", 90),
        ("yes", True),
        ("No", False),
        ("on", True),
        ("off", False),
        ("true", True),
        ("True", True),
        ("null", None),
        ("~", None),
        ("0x1f", 31),
        ("1_000", 1000),
        ("1.50", 1.5),
        (".5", 0.5),
        ("2026-01-02", "datetime.date(2026, 1, 2)"),
    ],
)
@pytest.mark.parametrize("key", ["class_names", "public_class_names"])
def test_a_class_name_that_yaml_would_change_is_refused_with_the_advice_to_quote_it(key, written, read):
    for line in (
        refusal(TEXT.replace("num_classes: 2", f"num_classes: 2, {key}: [a, {written}]")),
        refusal(TEXT, f"data.{key}=[a, {written}]"),
        refusal(TEXT, f"data={{{key}: [a, {written}]}}"),
    ):
        assert f"line 1 has the name {written} in data.{key}, which YAML reads as" in line
        assert str(read) in line
        assert line.endswith(f"; quote it: '{written}'")


def test_quoted_names_and_plain_numbers_are_taken_as_written():
    names = "['010', \"no\", 'null', 7, 2.5, a b, -3, 1e-5]"
    spec = parse_spec(TEXT.replace("num_classes: 2", f"num_classes: 8, class_names: {names}"))
    assert spec.data.class_names == ("010", "no", "null", "7", "2.5", "a b", "-3", "1e-5")
    assert parse_spec(spec.to_yaml()) == spec


@pytest.mark.parametrize("text", ["a: 2026-13-01", "a: !!python/object:os.system x", "a: !foo x", "{[1]: 2}", "a: *b"])
def test_what_yaml_cannot_construct_is_one_line(text):
    assert refusal(text).startswith("my.yaml ")


def test_a_file_that_is_nested_beyond_reason_is_refused():
    assert "nested too deeply" in refusal("a: " + "[" * 3000 + "]" * 3000)
