import pytest
import torch

from rapid_dist import errors
from rapid_dist.privacy.plan import OneWorker
from rapid_dist.training.collective import agree, on_rank_zero
from tests.training.helpers import returned, run_workers


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_sum_is_the_same_total_on_every_worker(world_size):
    answers = returned(run_workers(world_size, lambda c: c.sum(torch.tensor([1.0 + c.rank, 10.0]))))
    total = [sum(range(1, world_size + 1)), 10.0 * world_size]
    assert [a.tolist() for a in answers] == [total] * world_size


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_broadcast_is_the_word_of_rank_zero(world_size):
    answers = returned(run_workers(world_size, lambda c: c.broadcast(bytes([c.rank]) * (1 + c.rank))))
    assert answers == [b"\0"] * world_size


@pytest.mark.parametrize("world_size", [1, 3])
def test_workers_that_agree_go_on_with_their_own_values(world_size):
    assert returned(run_workers(world_size, lambda c: agree(c, lambda: c.rank * 2))) == [0, 2, 4][:world_size]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_when_one_worker_refuses_all_raise_and_none_is_left_waiting(failing):
    def work(collective):
        def read():
            if collective.rank == failing:
                raise errors.ArtifactError("this part is broken")
            return "read"

        return agree(collective, read)

    answers = run_workers(3, work)
    assert all(isinstance(a, errors.RapidDistError) for a in answers)
    assert type(answers[failing]) is errors.ArtifactError
    assert [str(a).startswith("another worker refused") for a in answers] == [i != failing for i in range(3)]


def test_a_bug_is_not_swallowed_by_agree():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        agree(OneWorker(), fail)


@pytest.mark.parametrize("world_size", [1, 3])
def test_rank_zero_works_alone_and_all_get_its_answer(world_size):
    worked = []

    def work(collective):
        return on_rank_zero(collective, lambda: worked.append(collective.rank) or {"value": [1, None]})

    assert returned(run_workers(world_size, work)) == [{"value": [1, None]}] * world_size
    assert worked == [0]


@pytest.mark.parametrize(
    "error", [errors.BudgetExceededError, errors.PrivacyError, errors.StorageError, errors.RapidDistError]
)
def test_an_error_of_rank_zero_is_raised_on_every_worker_with_its_kind_and_words(error):
    def work(collective):
        def fail():
            raise error("nothing was charged")

        return on_rank_zero(collective, fail)

    answers = run_workers(3, work)
    assert [type(a) for a in answers] == [error] * 3
    assert [str(a) for a in answers] == ["nothing was charged"] * 3
