"""The trials of an audit: what they claim is what their steps cost, and pairs differ by the one record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rapid_dist.audit.canaries import NUM_CLASSES
from rapid_dist.audit.trials import THE_RECORD, AuditSettings, canary_trial, replay_trials, restart_trial, settings_of
from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.specs import load_spec
from rapid_dist.training.plan import build_plan

SETTINGS = AuditSettings(num_canaries=400, num_sampled=40)


@pytest.mark.parametrize("is_full_batch", [True, False])
def test_a_canary_is_in_the_data_when_its_coin_says_so(is_full_batch):
    trial, coins = canary_trial(SETTINGS, 0, is_full_batch=is_full_batch)
    assert trial.records.example_id.tolist() == np.flatnonzero(coins).tolist()
    assert (trial.records.label.numpy() - NUM_CLASSES).tolist() == np.flatnonzero(coins).tolist()
    assert 150 < coins.sum() < 250
    assert trial.debug_key is None
    assert trial.plan.is_private


def test_every_round_and_seed_has_coins_of_its_own():
    drawn = [
        canary_trial(replace(SETTINGS, seed=seed), number, is_full_batch=kind)[1]
        for seed in (0, 1)
        for number in (0, 1)
        for kind in (True, False)
    ]
    agreement = np.array([[(a == b).mean() for a in drawn] for b in drawn])
    np.fill_diagonal(agreement, 0.5)
    assert np.abs(agreement - 0.5).max() < 0.15


def test_the_full_batch_run_is_one_gdp_by_default():
    plan = canary_trial(AuditSettings(), 0, is_full_batch=True)[0].plan
    assert plan.sample_rate == 1
    assert plan.target_epsilon == pytest.approx(4.3772, abs=1e-3)  # the golden table's Gaussian with mu = 1


def test_the_ledger_lets_just_the_planned_steps_pass():
    plan = canary_trial(AuditSettings(), 0, is_full_batch=False)[0].plan
    costs = [epsilon_pld((plan.training_charge(plan.steps + more),), plan.target_delta) for more in (0, 1)]
    assert costs[0] < plan.target_epsilon < costs[1]


def test_a_restart_has_steps_to_spare_for_those_it_loses():
    trial = restart_trial(AuditSettings())
    assert 0 < trial.crash_after % trial.training.checkpoint_every <= trial.plan.spare_steps


def test_pairs_differ_by_the_one_record():
    pairs = replay_trials(AuditSettings())
    assert len(pairs) == 9
    for having, lacking, _ in pairs:
        assert set(having.records.example_id) - set(lacking.records.example_id) == {THE_RECORD}
        assert replace(having, name="", records=None) == replace(lacking, name="", records=None)
        assert not having.plan.is_private  # a fixed key may not call itself private


@pytest.mark.parametrize("kind", ["residual_mlp", "unet"])
def test_settings_of_a_spec_keep_its_mechanism_and_narrow_its_network(spec_file, kind):
    changes = {"denoiser": {"kind": kind, "width": 64}, "training": {"steps": 4000}}
    spec = load_spec(str(spec_file(**changes, runtime={"clipping_engine": "opacus"})))
    settings, plan = settings_of(spec), build_plan(spec)
    assert (settings.noise_multiplier, settings.sample_rate) == (plan.noise_multiplier, plan.sample_rate)
    assert (settings.denoiser.kind, settings.denoiser.width, settings.steps) == (kind, 32, 1000)
    assert (settings.objective, settings.clipping_engine) == (spec.training.objective, "opacus")
    assert restart_trial(settings).clipping_engine == "opacus"


def test_more_watched_canaries_than_there_are_is_refused():
    with pytest.raises(SpecError, match="num_sampled"):
        AuditSettings(num_canaries=10, num_sampled=11)
