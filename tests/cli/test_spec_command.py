"""`rapid-dist spec` prints what the library tells of settings."""

from __future__ import annotations

import json

from rapid_dist.specs.explain import explain, json_schema, list_settings


def test_it_lists_every_setting(call):
    assert call("spec").stdout == list_settings() + "\n"
    assert call("spec", "--study").stdout == list_settings(study=True) + "\n"


def test_it_prints_the_schema(call):
    assert json.loads(call("spec", "--schema").stdout) == json_schema()
    assert json.loads(call("spec", "--schema", "--study").stdout) == json_schema(study=True)


def test_it_explains_a_setting_or_a_section(call):
    for name in ("privacy.sample_rate", "privacy", "tune.num_trials"):
        assert call("spec", "--explain", name).stdout == explain(name) + "\n"


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
