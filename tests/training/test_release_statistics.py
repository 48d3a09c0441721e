"""Class statistics of a group of workers: the exact sum, one noise, one charge, and nothing drawn twice."""

from types import SimpleNamespace

import numpy as np
import pytest

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.ledger import open_ledger, read_ledger
from rapid_dist.specs import RunSpec
from rapid_dist.storage.store import Store
from rapid_dist.training import private
from rapid_dist.training.plan import build_plan
from rapid_dist.training.private import STATISTICS, local_statistics, open_attempt, release_statistics
from tests.training.helpers import NUM_CLASSES, SHAPE, make_records, returned, run_workers, take

NOISE = 3.0
SPEC = RunSpec(
    data={"private": "p", "public": "q", "num_classes": NUM_CLASSES},
    privacy={
        "target_epsilon": 50,
        "target_delta": 1e-3,
        "sample_rate": 0.5,
        "nominal_size": 40,
        "noise_multiplier": 2.0,
        "debug_fixed_key": 5,
    },
    statistics={"noise_multiplier": NOISE, "clip_norm": 1.5},
    training={"steps": 4},
    sampling={"starts": "statistics"},
)
RECORDS = make_records(40)


def inputs_of(rows):
    return SimpleNamespace(partition=take(RECORDS, rows), models=SimpleNamespace(latent_shape=SHAPE), device="cpu")


def released(path, world_size, *, key=5, job="run"):
    """What every worker of a group gets, with the ledger in path/ledger and the release in path/out."""
    spec, plan = SPEC, build_plan(SPEC)
    ledger = Store(path / "ledger")

    def work(collective):
        book = open_ledger(ledger, **plan.ledger_terms()) if collective.rank == 0 else None
        attempt = open_attempt(plan, ledger=book, job=job, debug_fixed_key=key, collective=collective)
        mine = inputs_of(np.arange(len(RECORDS))[collective.rank :: collective.world_size])
        return release_statistics(mine, spec, plan, attempt, collective, Store(path / "out"))

    return returned(run_workers(world_size, work))


EXACT = local_statistics(inputs_of(np.arange(len(RECORDS))), SPEC)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_release_is_the_sum_over_all_workers_and_noise_of_its_key(tmp_path, world_size):
    alone = released(tmp_path / "alone", 1)[0]
    for noisy in released(tmp_path / "group", world_size):
        np.testing.assert_allclose(noisy, alone, atol=1e-5)


def noise_scale(path, world_size):
    """Root mean square of the noise over what was planned, in many releases under different keys."""
    noises = [released(path / str(key), world_size, key=key)[0] - EXACT for key in range(12)]
    return float(np.sqrt(np.mean(np.square(noises)))) / NOISE


def test_the_noise_is_that_of_the_charge_whatever_the_number_of_workers(tmp_path):
    # 12 x 3 x 28 = 1,008 numbers: their scale is within 7% of the truth but for one case in 2,000.
    assert noise_scale(tmp_path / "one", 1) == pytest.approx(1, abs=0.07)
    assert noise_scale(tmp_path / "two", 2) == pytest.approx(1, abs=0.07)


def test_noise_of_every_worker_would_be_noticed(tmp_path, monkeypatch):
    """Planted: every worker noises its own part, as local privacy would, and the parts are added up."""

    def released_by_each(charge, local_sum, path, column, inputs, attempt, collective, out):
        import torch

        rng = np.random.default_rng([collective.rank, int.from_bytes(attempt.key.export_bytes())])
        local = local_sum()
        return collective.sum(torch.from_numpy(local + rng.normal(scale=NOISE, size=local.shape))).numpy()

    monkeypatch.setattr(private, "_released", released_by_each)
    assert noise_scale(tmp_path, 2) > 1.3


def test_a_later_attempt_reads_what_was_released_and_pays_no_more(tmp_path):
    first = released(tmp_path, 2)[0]
    again = released(tmp_path, 1, key=6)[0]
    np.testing.assert_array_equal(first, again)
    charges = read_ledger(Store(tmp_path / "ledger")).charges
    assert [(c.purpose, c.noise_multiplier, c.num_steps) for c in charges] == [("class statistics", NOISE, 1)]


def test_a_release_that_the_ledger_does_not_count_is_refused(tmp_path):
    released(tmp_path, 1)
    other = tmp_path / "elsewhere"
    Store(other / "out").write_bytes(STATISTICS, (tmp_path / "out" / STATISTICS).read_bytes())
    with pytest.raises(PrivacyError, match="holds no charge"):
        released(other, 1)
