"""`rapid-dist spec` prints what the library tells of settings."""

from __future__ import annotations

import json

from rapid_dist.specs.explain import explain, json_schema, list_settings, plain_settings


def test_it_lists_every_setting(call):
    assert call("spec").stdout == list_settings() + "\n"
    assert call("spec", "--study").stdout == list_settings(study=True) + "\n"


def test_it_prints_the_schema(call):
    assert json.loads(call("spec", "--schema").stdout) == json_schema()
    assert json.loads(call("spec", "--schema", "--study").stdout) == json_schema(study=True)


def test_it_explains_a_setting_or_a_section(call):
    for name in ("privacy.sample_rate", "privacy", "tune.num_trials"):
        assert call("spec", "--explain", name).stdout == explain(name) + "\n"


def test_it_answers_in_json(call):
    (rate,) = json.loads(call("spec", "--explain", "privacy.sample_rate", "--json").stdout)["settings"].items()
    assert rate[0] == "privacy.sample_rate"
    assert (set(rate[1]), rate[1]["value"]) == ({"value", "meaning"}, "a number above 0 and at most 1")
    found = json.loads(call("spec", "--json", "--study").stdout)["settings"]
    assert found == json.loads(json.dumps(plain_settings(study=True)))
    assert found["tune.proxy.test_fraction"]["default"] == 0.2
    assert {name.split(".")[0] for name in plain_settings("runtime")} == {"runtime"}
    assert call("spec", "--schema", "--json").stdout.count("\n") == 1


def test_an_unknown_setting_is_one_line(refused):
    assert "did you mean 'sample_rate'?" in refused("spec", "--explain", "privacy.sampel_rate")


def test_schema_and_explain_exclude_each_other(call):
    result = call("spec", "--schema", "--explain", "privacy")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "not both" in result.stderr


def test_a_refused_setting_names_the_command_that_explains_it(refused, call, spec_file, tmp_path):
    line = refused("run", spec_file(), "--out", tmp_path, "--set", "privacy.sample_rate=2")
    assert "`rapid-dist spec --explain privacy.sample_rate`" in line
    assert call("spec", "--explain", "privacy.sample_rate").exit_code == 0
