import pytest
import torch

from rapid_dist.errors import SpecError
from rapid_dist.models.denoisers import build_denoiser, embed_timestep, one_hot_condition
from rapid_dist.specs import DenoiserSpec

SPECS = {
    "residual_mlp": DenoiserSpec(kind="residual_mlp", width=16, num_blocks=2, embedding_dim=8),
    "unet": DenoiserSpec(kind="unet", width=4, num_blocks=2, embedding_dim=8),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(kind: str, *, shape=(1, 8, 8), num_conditions=3, seed=0, is_fresh=False):
    """A denoiser; its zero-initialised layers are given small weights unless a fresh one is asked for."""
    model = build_denoiser(SPECS[kind], latent_shape=shape, num_conditions=num_conditions, generator=generator(seed))
    if not is_fresh:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=generator(1)) * 0.1)
    return model.eval()


def inputs(n: int, shape=(1, 8, 8), num_conditions=3):
    x_t = torch.randn(n, *shape, generator=generator(2))
    t = torch.arange(n) * 7
    label = torch.arange(n) % num_conditions if num_conditions else torch.full((n,), -1)
    return x_t, t, one_hot_condition(label, num_conditions)


@torch.no_grad()
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_no_output_changes_when_another_example_changes(kind, mode):
    model = getattr(build(kind), mode)()
    x_t, t, condition = inputs(4)
    before = model(x_t, t, condition)
    x_t, t, condition = x_t.clone(), t.clone(), condition.clone()
    x_t[2], t[2], condition[2] = 1e6, 999, 0
    after = model(x_t, t, condition)
    assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])
    assert not torch.equal(after[2], before[2])


@torch.no_grad()
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("part", ["x_t", "timestep", "condition"])
def test_every_input_matters(kind, part):
    model, (x_t, t, condition) = build(kind), inputs(2)
    before = model(x_t, t, condition)
    changed = {"x_t": x_t * 1.5, "timestep": t + 50, "condition": 1 - condition}[part]
    values = {"x_t": x_t, "timestep": t, "condition": condition, part: changed}
    assert (model(*values.values()) - before).abs().amax(dim=(1, 2, 3)).min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", SPECS)
def test_a_fresh_denoiser_predicts_nothing_yet(kind):
    """The last layer and the residual branches start at zero, so training starts from a loss of one."""
    x_t, t, condition = inputs(3)
    assert torch.equal(build(kind, is_fresh=True)(1e3 * x_t, t, condition), torch.zeros_like(x_t))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8), (1, 9, 13)])
@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_the_unet_keeps_every_size_even_one_that_does_not_halve(shape, num_blocks):
    spec = DenoiserSpec(kind="unet", width=4, num_blocks=num_blocks, embedding_dim=8)
    model = build_denoiser(spec, latent_shape=shape, num_conditions=2, generator=generator())
    x_t, t, condition = inputs(2, shape, 2)
    assert model(x_t, t, condition).shape == x_t.shape


def test_a_unet_too_deep_for_its_images_or_on_flat_latents_is_refused():
    with pytest.raises(SpecError, match="num_blocks is 4"):
        build_denoiser(
            DenoiserSpec(kind="unet", width=4, num_blocks=4, embedding_dim=8),
            latent_shape=(1, 8, 8),
            num_conditions=0,
            generator=generator(),
        )
    with pytest.raises(SpecError, match="expected \\(C, H, W\\)"):
        build_denoiser(SPECS["unet"], latent_shape=(8,), num_conditions=0, generator=generator())


@torch.no_grad()
@pytest.mark.parametrize("kind", SPECS)
def test_a_denoiser_without_classes_has_no_class_embedding(kind):
    model = build(kind, num_conditions=0)
    x_t, t, condition = inputs(3, num_conditions=0)
    assert condition.shape == (3, 0)
    assert model(x_t, t, condition).shape == x_t.shape
    assert not any("embed_class" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("kind", SPECS)
def test_weights_are_a_function_of_the_generator(kind):
    def weights(seed):
        return torch.cat([p.detach().flatten() for p in build(kind, seed=seed, is_fresh=True).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_negative_label_is_no_class():
    assert one_hot_condition(torch.tensor([1, -1, 0]), 3).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert one_hot_condition(torch.tensor([-1, -1]), 0).shape == (2, 0)


def test_the_timestep_embedding_is_cosines_and_sines_of_falling_frequencies():
    e = embed_timestep(torch.tensor([0, 5]), 4)
    assert e[0].tolist() == [1, 1, 0, 0]
    angles = torch.tensor([5.0, 5.0 / 100])
    torch.testing.assert_close(e[1], torch.cat([angles.cos(), angles.sin()]))
