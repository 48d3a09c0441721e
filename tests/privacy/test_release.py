import numpy as np
import pytest

from rapid_dist.errors import InputError, SpecError
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import PaidSteps, open_ledger
from rapid_dist.privacy.noise import grid_for
from rapid_dist.privacy.release import count_votes, histogram_charge, noise_histogram
from rapid_dist.storage.store import Store

KEY = RunKey.fixed_for_debugging(2)
SHAPE = (3, 4)
CHARGE = histogram_charge(50.0)


def receipt(attempt=1, *, step=0, charge=CHARGE):
    return PaidSteps(attempt=attempt, first_step=step, charge=charge, entry="0" * 64)


def make_votes(n=1000):
    rng = np.random.default_rng(0)
    return rng.integers(0, SHAPE[0], n), rng.integers(0, SHAPE[1], n)


def test_counting_agrees_with_a_loop_and_adds_over_parts():
    rows, columns = make_votes()
    expected = np.zeros(SHAPE, int)
    for r, c in zip(rows, columns, strict=True):
        expected[r, c] += 1
    assert np.array_equal(count_votes(rows, columns, SHAPE), expected)
    parts = sum(count_votes(rows[i::3], columns[i::3], SHAPE) for i in range(3))
    assert np.array_equal(parts, expected)


def test_the_shape_does_not_depend_on_which_classes_occur():
    nothing = count_votes(np.array([], int), np.array([], int), SHAPE)
    assert np.array_equal(nothing, np.zeros(SHAPE))


def test_one_record_moves_the_counts_by_at_most_one_in_l2():
    rows, columns = make_votes()
    whole = count_votes(rows, columns, SHAPE)
    for i in range(20):
        without = count_votes(np.delete(rows, i), np.delete(columns, i), SHAPE)
        assert np.linalg.norm(whole - without) == 1


def test_noise_has_the_scale_of_the_charge_and_counts_stay_inside():
    errors = np.concatenate(
        [noise_histogram(np.full(SHAPE, 7), key=KEY, paid=receipt(a)).ravel() - 7 for a in range(500)]
    )
    assert abs(errors.std() / 50 - 1) < 4 / np.sqrt(2 * errors.size)
    assert abs(errors.mean()) < 4 * 50 / np.sqrt(errors.size)
    assert np.array_equal(errors, np.rint(errors / grid_for(1.0)) * grid_for(1.0))


def test_each_attempt_step_and_purpose_has_its_own_noise():
    zeros = np.zeros(SHAPE)
    other = histogram_charge(50.0, purpose="other votes")
    noise = [
        noise_histogram(zeros, key=KEY, paid=receipt(1)),
        noise_histogram(zeros, key=KEY, paid=receipt(2)),
        noise_histogram(zeros, key=KEY, paid=receipt(1, step=1)),
        noise_histogram(zeros, key=KEY, paid=receipt(1, charge=other)),
    ]
    assert np.unique(noise).size == 4 * zeros.size


def test_input_counts_are_left_alone():
    counts = np.ones(SHAPE)
    noise_histogram(counts, key=KEY, paid=receipt())
    assert np.array_equal(counts, np.ones(SHAPE))


def test_the_receipt_of_the_ledger_is_what_a_histogram_runs_on(tmp_path):
    rows, columns = make_votes()
    ledger = open_ledger(Store(tmp_path), target_epsilon=1.0, target_delta=1e-5)
    paid = ledger.charge(CHARGE, attempt=ledger.begin_attempt({}))
    released = noise_histogram(count_votes(rows, columns, SHAPE), key=KEY, paid=paid)
    assert np.array_equal(released, noise_histogram(count_votes(rows, columns, SHAPE), key=KEY, paid=receipt()))
    assert ledger.spent_epsilon() == pytest.approx(0.0586, abs=1e-3)


@pytest.mark.parametrize(
    ("rows", "columns"), [([3], [0]), ([0], [4]), ([-1], [0]), ([0.0], [0]), ([[0]], [[0]]), ([0, 1], [0])]
)
def test_votes_outside_the_public_shape_are_refused(rows, columns):
    with pytest.raises(InputError):
        count_votes(np.array(rows), np.array(columns), SHAPE)


def test_a_charge_for_something_else_is_refused():
    training = Charge(
        mechanism="poisson_gaussian", noise_multiplier=50.0, sample_rate=0.1, num_steps=1, purpose="training"
    )
    with pytest.raises(SpecError):
        noise_histogram(np.zeros(SHAPE), key=KEY, paid=receipt(charge=training))
