"""What is seen of a watched run is what happened: sums, releases, calls, charges, and how it ended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rapid_dist.audit.checks import Recording
from rapid_dist.audit.observe import Trial, observe
from rapid_dist.audit.trials import REPLAY_KEY, REPLAY_STEPS, AuditSettings, replay_trials, restart_trial
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.inclusion import draw_inclusion
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.noise import draw_gaussian
from rapid_dist.storage.store import Store
from tests.training.helpers import returned, run_workers

SETTINGS = AuditSettings(num_canaries=40, num_sampled=20, restart_steps=16)


def seen(trial: Trial, path, world_size: int = 2) -> list[Recording]:
    return returned(run_workers(world_size, lambda collective: observe(trial, collective, Store(path))))


@pytest.fixture(scope="module")
def ordinary() -> Trial:
    return replay_trials(SETTINGS)[0][0]


def test_all_workers_see_the_same_run(ordinary, tmp_path):
    one, other = seen(ordinary, tmp_path)
    assert one.outcome == other.outcome == "completed"
    assert one.call_digests == other.call_digests
    assert len(one.call_digests) == 2
    assert one.is_same_on_all_workers
    assert np.array_equal(one.released, other.released)
    assert one.attempts.tolist() == [1] * REPLAY_STEPS


def test_the_public_values_are_the_ledgers(ordinary, tmp_path):
    public = seen(ordinary, tmp_path)[0].public
    charge = ordinary.plan.training_charge(REPLAY_STEPS)
    assert public["charges"] == [charge.to_dict()]
    assert public["charged_steps"] == REPLAY_STEPS
    assert public["epsilon"] == pytest.approx(epsilon_pld((charge,), ordinary.plan.target_delta))


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_release_is_the_clipped_sum_plus_the_noise_of_its_address(ordinary, tmp_path, world_size):
    recording, plan = seen(ordinary, tmp_path, world_size)[0], ordinary.plan
    for step in range(REPLAY_STEPS):
        noise = draw_gaussian(
            RunKey.fixed_for_debugging(REPLAY_KEY),
            attempt=1,
            step=step,
            first_coordinate=0,
            num_coordinates=recording.released.shape[1],
            stddev=plan.noise_stddev,
        )
        expected = recording.clipped_sums[step] + noise.numpy() / plan.max_grad_norm
        np.testing.assert_allclose(recording.released[step], expected, atol=5e-6)


def test_the_engine_of_a_trial_changes_what_is_seen_by_rounding_alone(ordinary, tmp_path):
    usual, reference = (
        seen(replace(ordinary, clipping_engine=engine), tmp_path / engine, 1)[0] for engine in ("auto", "opacus")
    )
    np.testing.assert_allclose(reference.clipped_sums, usual.clipped_sums, atol=1e-5)
    assert not np.array_equal(reference.clipped_sums, usual.clipped_sums)


def test_the_clipped_sum_at_a_canary_is_whether_it_took_part(ordinary, tmp_path):
    parts = seen(ordinary, tmp_path)[0].clipped_sums[:, -ordinary.num_canaries :]
    for step in range(REPLAY_STEPS):
        included = draw_inclusion(
            RunKey.fixed_for_debugging(REPLAY_KEY),
            attempt=1,
            step=step,
            example_ids=np.arange(ordinary.num_canaries),
            sample_rate=ordinary.plan.sample_rate,
        )
        np.testing.assert_allclose(parts[step], included, atol=1e-5)


def test_a_run_that_failed_once_shows_both_attempts(tmp_path):
    """Blocks of 4 steps, a failure after 6: the second attempt begins again at the checkpoint of step 4."""
    recording = seen(restart_trial(SETTINGS), tmp_path)[0]
    assert recording.outcome == "completed"
    assert recording.attempts.tolist() == [1] * 6 + [2] * 12
    assert recording.public["charged_steps_at_failure"] == 8
    assert recording.public["charged_steps"] == 8 + 12


def test_a_budget_that_runs_out_is_seen(ordinary, tmp_path):
    plan, afforded = ordinary.plan, 5
    target = epsilon_pld((plan.training_charge(afforded),), plan.target_delta) + 1e-6
    poor = replace(plan, target_epsilon=target, steps=afforded)
    recording = seen(replace(ordinary, plan=poor), tmp_path)[0]
    assert recording.outcome == "stopped"
    assert len(recording.released) == recording.public["charged_steps"] == afforded


def test_an_error_of_ours_is_how_the_run_ended(ordinary, tmp_path):
    recording = seen(replace(ordinary, plan=replace(ordinary.plan, is_private=True)), tmp_path)[0]
    assert recording.outcome.startswith("PrivacyError")
    assert len(recording.released) == 0
