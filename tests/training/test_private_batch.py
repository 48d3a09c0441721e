import numpy as np
import pytest
import torch

from rapid_dist.diffusion.process import add_noise, noise_towards, value_timestep
from rapid_dist.specs import ScheduleSpec
from rapid_dist.training.private_data import draw_timesteps, make_private_batch
from tests.training.helpers import ALPHAS, NUM_CLASSES, SCHEDULE, SHAPE, make_records, make_run, make_training, take

FIELDS = ("x_t", "noise", "timestep", "condition")
DRAWS = 3


def make_batch(records, included=None, *, step=4, schedule=SCHEDULE, num_conditions=NUM_CLASSES, **changes):
    return make_private_batch(
        records,
        np.ones(len(records), dtype=bool) if included is None else np.asarray(included),
        make_run(
            training=make_training(noise_multiplicity=DRAWS, **changes),
            schedule=schedule,
            num_conditions=num_conditions,
        ),
        step=step,
    )


def rows_equal(a, i, b, j) -> bool:
    return all(torch.equal(getattr(a, f)[i], getattr(b, f)[j]) for f in FIELDS)


OBJECTIVES = ["denoise", "surrogate"]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_timesteps_follow_the_law_of_their_power(power):
    # P(t < s) = (s / split)^(1 / power); the tolerance is five standard errors of 40,000 draws.
    training, schedule = make_training(noise_multiplicity=4, timestep_power=power), ScheduleSpec(split_step=600)
    drawn = draw_timesteps(training, schedule, 3, np.arange(10_000))
    assert drawn.shape == (10_000, 4)
    assert drawn.min() >= 0
    assert drawn.max() < 600
    for below in (60, 300, 540):
        expected = (below / 600) ** (1 / power)
        assert abs((drawn < below).mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / drawn.size)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_row_does_not_change_when_another_record_changes(objective):
    records = make_records(8, has_surrogate=True)
    before = make_batch(records, objective=objective)
    records.latent[3], records.surrogate[3], records.label[3] = 1e6, float("nan"), 0
    after = make_batch(records, objective=objective)
    assert all(rows_equal(before, i, after, i) for i in range(8) if i != 3)
    assert not rows_equal(before, 3, after, 3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_row_does_not_change_when_other_records_are_gone_moved_or_left_out(objective):
    records = make_records(8, has_surrogate=True)
    whole = make_batch(records, objective=objective)
    kept = [6, 1, 4]
    gone = make_batch(take(records, kept), objective=objective)
    left_out = make_batch(records, np.isin(np.arange(8), kept), objective=objective)
    assert all(rows_equal(whole, record, gone, row) for row, record in enumerate(kept))
    assert all(rows_equal(whole, record, left_out, row) for row, record in enumerate(sorted(kept)))
    assert len(gone) == len(left_out) == 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_row_follows_the_content_of_its_record_not_its_place(objective):
    records, moved = make_records(4, has_surrogate=True), make_records(4, has_surrogate=True)
    moved.example_id[:] = records.example_id - 1  # as when a file before them all is gone
    before, after = make_batch(records, objective=objective), make_batch(moved, objective=objective)
    assert all(rows_equal(before, i, after, i) for i in range(4))
    moved.address[:] += np.uint64(1)
    other = make_batch(moved)
    assert not any(torch.equal(make_batch(records).noise[i], other.noise[i]) for i in range(4))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_record_included_is_an_empty_batch_of_the_right_shapes(objective):
    batch = make_batch(make_records(5, has_surrogate=True), np.zeros(5, dtype=bool), objective=objective)
    assert len(batch) == 0
    assert batch.x_t.shape == batch.noise.shape == (0, DRAWS, *SHAPE)
    assert batch.timestep.shape == (0, DRAWS)
    assert batch.condition.shape == (0, NUM_CLASSES)
    nobody = make_batch(take(make_records(1, has_surrogate=True), []), objective=objective)
    assert nobody.x_t.shape == (0, DRAWS, *SHAPE)


def test_timesteps_are_always_below_the_split_step_and_all_of_them_occur():
    seen = [make_batch(make_records(40), step=step).timestep for step in range(20)]
    seen = torch.cat(seen)
    assert seen.min() >= 0
    assert seen.max() < SCHEDULE.split_step
    assert len(seen.unique()) == SCHEDULE.split_step
    counts = np.bincount(seen.flatten().numpy(), minlength=SCHEDULE.split_step)
    expected = counts.sum() / SCHEDULE.split_step
    assert ((counts - expected) ** 2 / expected).sum() < 29 + 5 * np.sqrt(2 * 29)


def test_denoise_noises_the_records_own_latent_with_fresh_normals():
    records = make_records(50)
    batch = make_batch(records)
    for k in range(DRAWS):
        expected = add_noise(records.latent, batch.timestep[:, k], batch.noise[:, k], ALPHAS)
        torch.testing.assert_close(batch.x_t[:, k], expected)
    z = batch.noise.flatten()
    assert abs(z.mean()) < 4 / len(z) ** 0.5
    assert abs(z.var() - 1) < 4 * (2 / len(z)) ** 0.5
    assert not torch.equal(batch.noise[:, 0], batch.noise[:, 1])


def test_surrogate_noise_leads_to_the_records_own_retrieved_value():
    records = make_records(6, has_surrogate=True)
    batch = make_batch(records, objective="surrogate")
    split = torch.full((6,), value_timestep(SCHEDULE))
    for k in range(DRAWS):
        reached = add_noise(records.latent, split, batch.noise[:, k], ALPHAS)
        torch.testing.assert_close(reached, records.surrogate)
        own = noise_towards(records.latent, batch.timestep[:, k], batch.x_t[:, k], ALPHAS)
        torch.testing.assert_close(own, batch.noise[:, k], rtol=1e-3, atol=1e-3)


def test_the_rows_of_an_example_lie_next_to_each_other_with_its_condition():
    batch = make_batch(make_records(5))
    assert batch.rows_per_example == DRAWS
    x_t, noise, timestep, condition = batch.rows()
    for i in range(5):
        rows = slice(i * DRAWS, (i + 1) * DRAWS)
        assert torch.equal(x_t[rows], batch.x_t[i])
        assert torch.equal(noise[rows], batch.noise[i])
        assert torch.equal(timestep[rows], batch.timestep[i])
        assert torch.equal(condition[rows], batch.condition[i].expand(DRAWS, -1))
    part = batch.part(1, 3)
    assert len(part) == 2
    assert all(
        torch.equal(whole[DRAWS : 3 * DRAWS], some) for whole, some in zip(batch.rows(), part.rows(), strict=True)
    )


def test_every_step_and_seed_draws_anew():
    records = make_records(6)
    first = make_batch(records)
    for other in (make_batch(records, step=5), make_batch(records, seed=1)):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.timestep, other.timestep)
    again = make_batch(records)
    assert all(torch.equal(getattr(first, f), getattr(again, f)) for f in FIELDS)


def test_labels_become_one_hot_rows_and_absent_ones_zeros():
    records = make_records(9)
    batch = make_batch(records, label_dropout=0.0)
    expected = torch.zeros(9, NUM_CLASSES)
    for i, label in enumerate(records.label.tolist()):
        if label >= 0:
            expected[i, label] = 1
    assert torch.equal(batch.condition, expected)
    records.label[:] = -1
    assert make_batch(records, num_conditions=0).condition.shape == (9, 0)


def test_the_stated_share_of_labels_is_dropped():
    records = make_records(400)
    records.label[:] = 1
    dropped = np.mean([1 - make_batch(records, step=s, label_dropout=0.3).condition[:, 1].mean() for s in range(5)])
    assert abs(dropped - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)
