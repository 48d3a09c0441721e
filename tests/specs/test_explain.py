"""Every setting can be printed: as JSON Schema that takes the specs of this repository, and as text."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from rapid_dist.errors import SpecError
from rapid_dist.specs import RunSpec
from rapid_dist.specs.explain import WIDTH, explain, json_schema, list_settings
from rapid_dist.specs.files import read_mapping
from rapid_dist.specs.schema import resolved
from rapid_dist.specs.study import TuneSpec, parse_study

ROOT = Path(__file__).parents[2]
DATA = ("data.private=p.parquet", "data.public=q.parquet")  # given on the command line


def named_settings(root):
    """{dotted name: node of the schema} of all settings, sections left out."""
    found, todo = {}, [("", root)]
    while todo:
        path, node = todo.pop()
        for key, inner in resolved(node, root)["properties"].items():
            name = f"{path}.{key}" if path else key
            if "properties" in resolved(inner, root):
                todo.append((name, inner))
            else:
                found[name] = inner
    return found


SETTINGS = named_settings(json_schema(study=True))


def plain(name, *overrides):
    """A spec file as JSON has it, where keys are text."""
    return json.loads(json.dumps(read_mapping((ROOT / name).read_text(), overrides=overrides, source=name)))


@pytest.mark.parametrize(
    ("name", "overrides", "study"),
    [
        ("rapid_dist/recipes/demo.yaml", (), False),
        ("rapid_dist/recipes/rapid.yaml", DATA, False),
        ("jobs/specs/mnist-letters-tune.yaml", DATA, True),
        ("k8s/base/spec.yaml", (), False),
    ],
)
def test_the_schema_takes_the_specs_of_this_repository_and_refuses_a_wrong_one(name, overrides, study):
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(json_schema(study=study))
    checker.check_schema(checker.schema)
    spec = plain(name, *overrides)
    checker.validate(spec)
    for section, key, value in (
        ("privacy", "sample_rate", 1.5),
        ("privacy", "target_epsilon", 0),
        ("privacy", "votes_noise_multiplier", 0),
        ("training", "stepz", 5),
        ("schedule", "kind", "quadratic"),
        ("data", "num_channels", 2),
        ("denoiser", "embedding_dim", 7),
    ):
        assert not checker.is_valid({**spec, section: {**spec.get(section, {}), key: value}}), key


def test_the_schema_of_a_study_knows_the_axes():
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(json_schema(study=True))
    spec = plain("jobs/specs/mnist-letters-tune.yaml", *DATA)
    for axis, is_axis in (([1, 2], True), ({"int": [1, 9], "step": 2}, True), ({"logint": [1, 2]}, False), (5, False)):
        space = {"training.steps": axis}
        assert checker.is_valid({**spec, "tune": {**spec["tune"], "space": space}}) == is_axis, axis
    written = json.loads(
        json.dumps(parse_study((ROOT / "jobs/specs/mnist-letters-tune.yaml").read_text(), overrides=DATA).to_plain())
    )
    checker.validate(written)


def test_the_schema_keeps_the_order_of_the_sections():
    assert list(json_schema()["properties"]) == [f.name for f in fields(RunSpec)]


def _flat(values, path=""):
    for key, value in values.items():
        if isinstance(value, dict) and key != "label_map":
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_the_schema_has_every_setting_with_its_default():
    run = {name: node for name, node in SETTINGS.items() if not name.startswith("tune.")}
    privacy = {"target_epsilon": 1, "target_delta": 1e-5, "sample_rate": 0.1, "nominal_size": 10}
    made = RunSpec(data={"private": "p", "public": "q"}, privacy=privacy).to_plain()
    flat = dict(_flat(made))
    assert set(run) == set(flat)
    defaults = {name: node["default"] for name, node in run.items() if "default" in node}
    assert defaults == {name: flat[name] for name in defaults}
    required = {f"privacy.{key}" for key in privacy} | {"data.private", "data.public"}
    assert set(run) - set(defaults) == required


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_says_what_it_is(name):
    meaning = SETTINGS[name]["description"]
    assert len(meaning.split()) >= 4
    assert meaning.endswith(".")
    text = explain(name)
    for word in meaning.split():
        assert word in text
    for limit in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        bound = resolved(SETTINGS[name], {}).get(limit)
        assert bound is None or f"{bound:g}" in text


def test_one_setting_is_told_with_type_range_default_and_meaning():
    assert explain("privacy.sample_rate").splitlines() == [
        "privacy.sample_rate",
        "  value    a number above 0 and at most 1",
        "  default  required",
        "  meaning  The probability with which a private record is in a training step (Poisson sampling),",
        "           over all workers together.",
        "  set by   --set privacy.sample_rate=..., or in the spec file",
    ]
    assert "  default  null\n" in explain("data.image_size")
    assert "a whole number from 8 to 64, or null" in explain("data.image_size")
    assert "one of cosine, linear" in explain("schedule.kind")


def test_a_section_is_told_with_all_its_settings_and_no_others():
    text = explain("runtime")
    assert "spare_steps" in text  # the whole of what is said about the section
    for name in SETTINGS:
        section, _, key = name.rpartition(".")
        assert (f"\n  {key}: " in text) or section != "runtime"
    assert "sample_rate" not in text
    assert "tune.proxy" in explain("tune")


@pytest.mark.parametrize("study", [False, True])
def test_the_list_holds_every_setting_within_its_columns(study):
    text = list_settings(study=study)
    assert max(map(len, text.splitlines())) <= WIDTH
    section, found = "", set()
    for line in text.splitlines():
        if line and not line.startswith(" "):
            section = f"{line.split(':')[0]}."
        elif line.startswith("  ") and line[2] != " " and ": " in line:
            found.add(section + line.split(":")[0].strip())
    assert {name for name in SETTINGS if study or not name.startswith("tune.")} <= found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("privacy.sampel_rate", "did you mean 'sample_rate'?"),
        ("trainign", "did you mean 'training'?"),
        ("privacy.sample_rate.x", "privacy.sample_rate is a setting, not a section"),
        ("", "known: data, privacy"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, said):
    with pytest.raises(SpecError) as caught:
        explain(name)
    assert said in str(caught.value)


def test_the_list_of_a_study_has_the_search():
    assert "tune.proxy: " in list_settings(study=True)
    assert "tune" not in json_schema()["properties"]
    assert TuneSpec.__doc__ in list_settings(study=True)
