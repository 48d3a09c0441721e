"""The warm-up on draws of released statistics: it learns them, for any number of workers, and costs nothing."""

import numpy as np
import pytest
import torch

from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.errors import SpecError
from rapid_dist.privacy.calibration import Budget
from rapid_dist.privacy.plan import OneWorker
from rapid_dist.privacy.statistics import fit_gaussians, sum_statistics
from rapid_dist.specs import RunSpec
from rapid_dist.storage.store import Store
from rapid_dist.training.plan import build_plan, private_run, statistics_terms
from rapid_dist.training.private_data import make_private_batch
from rapid_dist.training.state import CheckpointFolder, checkpoint_notes, release_stamp
from rapid_dist.training.warm_up import _drawn, warm_up
from tests.training.helpers import ALPHAS, NUM_CLASSES, SHAPE, make_state, returned, run_workers

SETTINGS = {
    "data": {"private": "p", "public": "q", "num_classes": NUM_CLASSES},
    "privacy": {"target_epsilon": 50, "target_delta": 1e-3, "sample_rate": 0.5, "nominal_size": 40},
    "schedule": {"num_train_timesteps": 50, "split_step": 30, "query_step": 40},
    "pretrain": {"batch_size": 64, "learning_rate": 1e-2, "ema_decay": 0.9},
    "statistics": {"noise_multiplier": 9.0},
    "training": {"steps": 4, "warm_up": "statistics", "warm_up_steps": 80, "noise_multiplicity": 2},
}
SPEC = RunSpec(**SETTINGS)
TERMS = statistics_terms(SPEC, SHAPE)
RECORDS = np.random.default_rng(0).normal(size=(600, 6)) * 0.1 + (np.arange(600) % NUM_CLASSES)[:, None] - 1.0
RELEASED = sum_statistics(RECORDS, np.arange(600) % NUM_CLASSES, TERMS)
GAUSSIANS = fit_gaussians(RELEASED, TERMS, noise_multiplier=1e-9)


def make_model():
    return make_state(width=24).model


def run_of(spec):
    return private_run(spec, build_plan(spec), ALPHAS, device="cpu")


def warmed(path, spec=SPEC, *, collective=None, released=RELEASED, seen=None, notes_fn=dict):
    model = make_model()
    warm_up(
        model,
        released,
        spec,
        run_of(spec),
        SHAPE,
        collective=collective or OneWorker(),
        out=Store(path),
        notes_fn=notes_fn,
        on_step=(seen if seen is not None else []).append,
    )
    return model


def loss_of(model):
    index = np.arange(10_000, 10_400)
    batch = make_private_batch(_drawn(GAUSSIANS, SPEC, index, SHAPE), np.ones(400, bool), run_of(SPEC), step=9_999)
    with torch.no_grad():
        return float(denoising_loss(model, *batch.rows()).mean())


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_it_learns_what_was_drawn(tmp_path):
    assert loss_of(warmed(tmp_path / "w")) < 0.6 * loss_of(make_model())


def test_a_second_call_resumes_to_the_same_model_without_a_step(tmp_path):
    first, seen = warmed(tmp_path / "w"), []
    again = warmed(tmp_path / "w", seen=seen)
    assert same(first, again)
    assert not seen


def test_a_checkpoint_of_another_release_is_never_resumed_from(tmp_path):
    first, seen = warmed(tmp_path / "w"), []
    other = warmed(tmp_path / "w", released=RELEASED + 1.0, seen=seen)
    assert len(seen) == SPEC.training.warm_up_steps
    assert not same(first, other)


def test_a_checkpoint_says_of_itself_what_it_may_not_be_called(tmp_path):
    spec = RunSpec(**{**SETTINGS, "privacy": {**SETTINGS["privacy"], "debug_fixed_key": 1}})
    warmed(tmp_path / "w", spec, notes_fn=lambda: release_stamp(build_plan(spec), "job-1"))
    (folder,) = (tmp_path / "w").iterdir()
    notes = checkpoint_notes(CheckpointFolder(Store(folder)).latest())
    assert (notes["job"], notes["has_secret_noise"]) == ("job-1", "False")
    assert notes["not_private"]


def test_all_workers_end_with_one_model(tmp_path):
    first, second = returned(run_workers(2, lambda c: warmed(tmp_path / "w", collective=c)))
    assert same(first, second)
    assert loss_of(first) < 0.6 * loss_of(make_model())


def test_without_it_the_model_stays_as_it_was(tmp_path):
    spec = RunSpec(**{**SETTINGS, "training": {"steps": 4}, "sampling": {"starts": "statistics"}})
    assert same(warmed(tmp_path / "w", spec, notes_fn=never_called), make_model())
    assert same(warmed(tmp_path / "w", released=None, notes_fn=never_called), make_model())


def never_called():
    raise AssertionError("what was not released has no statement")


def test_a_draw_is_a_function_of_its_number():
    every, one = (_drawn(GAUSSIANS, SPEC, np.arange(n, 12), SHAPE) for n in (0, 11))
    assert torch.equal(every.latent[11], one.latent[0])
    assert every.label[11] == one.label[0]
    assert set(_drawn(GAUSSIANS, SPEC, np.arange(200), SHAPE).label.tolist()) == set(range(NUM_CLASSES))


def test_it_asks_for_a_charged_release_and_for_training():
    plan = build_plan(SPEC)
    assert SPEC.releases_statistics
    assert not SPEC.starts_from_statistics
    assert [c.purpose for c in plan.planned_charges()][:1] == ["class statistics"]
    surrogate = {"steps": 4, "warm_up": "statistics", "objective": "surrogate"}
    with pytest.raises(SpecError, match="objective 'denoise'"):
        RunSpec(**{**SETTINGS, "training": surrogate})


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_release_without_a_stated_noise_costs_its_share_and_training_has_the_rest(share):
    spec = RunSpec(**{**SETTINGS, "statistics": {"epsilon_share": share}})
    plan = build_plan(spec)
    target, delta = spec.privacy.target_epsilon, spec.privacy.target_delta
    alone = Budget(target, delta).epsilon((plan.statistics_charge(),))
    assert share * target * 0.99 < alone <= share * target
    assert 0.9 * target < plan.planned_epsilon().pld <= target
