import json

import pytest
import torch

from rapid_dist.errors import ArtifactError
from rapid_dist.storage.store import Store
from rapid_dist.training.state import CheckpointFolder, TrainState, checkpoint_notes
from tests.training.helpers import begin_attempt, flat_weights, make_plan, make_records, make_state, train


class WithBuffer(torch.nn.Module):
    def __init__(self, size: int = 3):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(size, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(2))


def make(size: int = 3, **changes) -> TrainState:
    return TrainState(WithBuffer(size), **{"learning_rate": 0.1, "ema_decay": 0.9, **changes})


def step(state: TrainState, seed: int, **kwargs) -> None:
    for p in state.model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    state.apply(**kwargs)


def everything(state: TrainState) -> dict[str, list]:
    moments = {
        f"{name}.{moment}": value.tolist()
        for name, p in state.model.named_parameters()
        for moment, value in state.optimizer.state.get(p, {}).items()
    }
    weights = {n: t.tolist() for n, t in state.model.state_dict().items()}
    return {"step": state.step, "average": {n: t.tolist() for n, t in state.average.items()}, **weights, **moments}


@pytest.fixture
def folder(tmp_path) -> CheckpointFolder:
    return CheckpointFolder(Store(tmp_path / "checkpoints"))


def test_a_checkpoint_restores_weights_buffers_moments_average_and_step_exactly():
    state = make()
    for seed in range(3):
        step(state, seed)
    state.model.scale.fill_(7)
    restored = make()
    restored.load_bytes(state.to_bytes())
    assert everything(restored) == everything(state)
    assert "weight.exp_avg_sq" in everything(restored)
    assert restored.step == 3


def test_a_restored_run_goes_on_exactly_like_one_that_never_stopped():
    state = make()
    for seed in range(3):
        step(state, seed)
    restored = make()
    restored.load_bytes(state.to_bytes())
    for seed in range(3, 6):
        step(state, seed)
        step(restored, seed)
    assert everything(restored) == everything(state)


def test_a_checkpoint_from_before_the_first_step_restores_that():
    fresh, later = make(), make()
    step(later, 0)
    data = fresh.to_bytes()
    later.load_bytes(data)
    step(fresh, 1)
    step(later, 1)
    assert everything(later) == everything(fresh)


def test_a_checkpoint_of_another_model_is_refused():
    for other in (make(4), TrainState(torch.nn.Linear(2, 2), learning_rate=0.1, ema_decay=0.9)):
        with pytest.raises(ArtifactError, match="another model"):
            make().load_bytes(other.to_bytes())


def test_the_average_is_warmed_up_and_then_exponential():
    state = make(ema_decay=0.5)
    average = state.model.weight.detach().clone()
    for seed, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5]):
        step(state, seed)
        average = decay * average + (1 - decay) * state.model.weight.detach()
        torch.testing.assert_close(state.average["weight"], average)


def test_averaged_weights_are_the_averages_beside_the_buffers():
    state = make()
    step(state, 0)
    state.model.scale.fill_(7)
    averaged = state.averaged_weights()
    assert torch.equal(averaged["weight"], state.average["weight"])
    assert averaged["scale"].tolist() == [7, 7]
    assert not torch.equal(averaged["weight"], state.model.weight)
    WithBuffer().load_state_dict(averaged)


def test_the_learning_rate_factor_scales_the_step():
    whole, half, none = make(), make(), make()
    before = whole.model.weight.detach().clone()
    step(whole, 0)
    step(half, 0, learning_rate_factor=0.5)
    step(none, 0, learning_rate_factor=0.0)
    torch.testing.assert_close(half.model.weight - before, (whole.model.weight - before) / 2)
    assert torch.equal(none.model.weight, before)


def test_a_checkpoint_holds_neither_the_key_nor_anything_of_the_budget(tmp_path, folder):
    plan = make_plan(target_epsilon=43.21875)
    attempt = begin_attempt(Store(tmp_path / "ledger"), plan)
    state = make_state()
    assert train(state, make_records(12), attempt, folder, plan=plan)
    exported = attempt.key.export_bytes()
    files = {name: folder.store.read_bytes(name) for name in folder.store.list_files()}
    assert any(name.endswith(".safetensors") for name in files)
    for name, data in files.items():
        assert exported[1:] not in data
        assert exported[1:].hex().encode() not in data
        assert b"epsilon" not in data
        assert b"43.21875" not in data
        if name.endswith(".json"):
            assert set(json.loads(data)) == {"step", "sha256", "bytes"}
        else:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            notes = header.pop("__metadata__")
            assert notes.pop("step") == str(int(name[5:13]))
            assert set(notes) == {
                "job", "attempt", "ledger_entry", "has_secret_noise", "not_private", "statement"
            }  # fmt: skip
            assert {key.split(".")[0] for key in header} == {"model", "average", "adam"}


def test_an_empty_folder_has_no_checkpoint(folder):
    assert folder.latest() is None


def test_the_last_two_checkpoints_are_kept(folder):
    state = make()
    for seed in range(4):
        step(state, seed)
        folder.save(state)
    assert folder.store.list_files() == [f"step-0000000{n}.{ext}" for n in (3, 4) for ext in ("json", "safetensors")]
    assert folder.latest() == state.to_bytes()


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(folder):
    state = make()
    for n in (2, 10, 9):
        state.step = n
        folder.save(state)
    restored = make()
    restored.load_bytes(folder.latest())
    assert restored.step == 10


def test_a_checkpoint_without_its_digest_was_never_finished_and_is_ignored(folder):
    state = make()
    step(state, 0)
    folder.save(state)
    first = state.to_bytes()
    step(state, 1)
    folder.store.write_bytes("step-00000002.safetensors", state.to_bytes()[:50])
    assert folder.latest() == first


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: b""])
def test_a_checkpoint_that_does_not_match_its_digest_is_refused_by_name(folder, damage):
    state = make()
    step(state, 0)
    folder.save(state)
    folder.store.write_bytes("step-00000001.safetensors", damage(state.to_bytes()))
    with pytest.raises(ArtifactError, match=r"step-00000001\.safetensors does not match its digest"):
        folder.latest()


def test_weights_of_the_tiny_problem_survive_a_checkpoint(folder):
    state = make_state()
    folder.save(state)
    restored = make_state()
    with torch.no_grad():
        for p in restored.model.parameters():
            p.zero_()
    restored.load_bytes(folder.latest())
    assert torch.equal(flat_weights(restored), flat_weights(state))


def test_a_folder_keeps_its_newest_two(folder):
    state = make()
    for seed in range(4):
        step(state, seed)
        folder.save(state, {"note": str(seed)})
    assert [n for n in folder.store.list_files() if n.endswith(".json")] == ["step-00000003.json", "step-00000004.json"]
    assert checkpoint_notes(folder.latest()) == {"note": "3", "step": "4"}
