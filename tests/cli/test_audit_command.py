"""The audit command: what it prints, saves and exits with; the audit itself is replaced by its result."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from rapid_dist.audit.battery import AuditResult, judge_canaries
from rapid_dist.audit.checks import Check
from rapid_dist.cli import main


def result(*, found: float) -> AuditResult:
    rng = np.random.default_rng(0)
    coins = rng.random(4000) < 0.5
    full, sampled = (
        judge_canaries(
            name,
            {"sample_rate": rate, "noise_multiplier": 10.0, "steps": 100, "delta": 1e-5},
            rng.normal(size=4000) + coins,
            coins,
            claimed_epsilon=4.377,
            significance=0.01,
        )
        for name, rate in (("every record in every step", 1.0), ("sampled at 0.1", 0.1))
    )
    checks = (Check(layer="noise", name="scale", found=found, high=1),)
    return AuditResult(checks=checks, full_batch=full, sampled=sampled)


@pytest.fixture
def asked(monkeypatch):
    """What run_audit was called with; answers hold what it returns."""
    from rapid_dist.stages import audit

    calls: dict = {"answer": result(found=1.0)}

    def run_audit(settings, runtime, work):
        calls.update(settings=settings, runtime=runtime, work=work)
        return calls["answer"]

    monkeypatch.setattr(audit, "run_audit", run_audit)
    return calls


def invoke(*arguments: str):
    return CliRunner().invoke(main, ["audit", *arguments], catch_exceptions=False)


def test_a_pass_prints_the_bounds_beside_the_claim_and_saves_numbers_and_picture(asked, tmp_path):
    answer = invoke("--out", str(tmp_path))
    assert answer.exit_code == 0
    assert "4.377" in answer.output
    assert answer.output.splitlines()[-1].startswith("passed")
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "audit.json").read_text())["passed"]
    assert asked["work"].uri.startswith(f"{tmp_path}/runs/")


def test_the_last_line_of_json_holds_the_promised_numbers(asked, tmp_path):
    plain = json.loads(invoke("--json", "--out", str(tmp_path)).output.splitlines()[-1])
    assert plain["passed"] is True
    assert plain["claimed_epsilon"] == 4.377
    for name in ("gdp_estimate", "one_run_lower_bound", "clopper_pearson_lower_bound"):
        assert 0 < plain[name] < plain["claimed_epsilon"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_violation_is_named_and_exits_with_1(asked, tmp_path, as_json):
    asked["answer"] = result(found=2.0)
    answer = invoke("--out", str(tmp_path), *["--json"] * as_json)
    assert answer.exit_code == 1
    assert "noise: scale: 2, at most 1" in answer.output


def test_a_spec_gives_the_mechanism(asked, tmp_path, spec_file):
    from rapid_dist.specs import load_spec
    from rapid_dist.training.plan import build_plan

    path = str(spec_file())
    assert invoke(path, "--out", str(tmp_path), "--set", "privacy.max_grad_norm=0.5").exit_code == 0
    plan, settings = build_plan(load_spec(path)), asked["settings"]
    assert (settings.sample_rate, settings.steps, settings.max_grad_norm) == (plan.sample_rate, plan.steps, 0.5)
    assert settings.noise_multiplier == plan.noise_multiplier
    assert settings.delta == plan.target_delta
    assert asked["runtime"].num_workers == 2


def test_set_without_a_spec_is_a_usage_error(asked):
    answer = invoke("--set", "privacy.sample_rate=1")
    assert answer.exit_code == 2
    assert "SPEC" in answer.output


def test_a_missing_spec_is_one_line_and_exit_code_2(asked, tmp_path):
    answer = invoke("nowhere.yaml", "--out", str(tmp_path))
    assert answer.exit_code == 2
    assert len(answer.output.splitlines()) == 1
