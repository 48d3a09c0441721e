from dataclasses import replace

import pytest
import torch

from rapid_dist.errors import ArtifactError
from rapid_dist.models.public import (
    build_public_models,
    encode_pixels,
    load_into,
    open_public_models,
    read_weights,
    save_weights,
)
from rapid_dist.specs import AutoencoderSpec, DataSpec, DenoiserSpec, ExtractorSpec, PrivacySpec, RunSpec
from rapid_dist.storage.manifest import Manifest
from rapid_dist.storage.store import Store

SHAPE = (1, 8, 8)
SPEC = RunSpec(
    data=DataSpec(private="p", public="q"),
    privacy=PrivacySpec(target_epsilon=1.0, target_delta=1e-4, sample_rate=0.1, nominal_size=100),
    autoencoder=AutoencoderSpec(kind="conv", latent_dim=5, width=2),
    denoiser=DenoiserSpec(width=8, num_blocks=1, embedding_dim=4),
    extractor=ExtractorSpec(feature_dim=3, width=6),
)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "pretrain")


def save_models(store: Store, models) -> Manifest:
    files = [
        save_weights(store, f"{name}.safetensors", getattr(models, name).state_dict())
        for name in ("autoencoder", "denoiser", "extractor")
    ]
    facts = {"image_shape": list(SHAPE), "num_public_classes": 3}
    return Manifest(stage="pretrain", privacy_class="public", spec={}, inputs={}, files=files, facts=facts)


@pytest.fixture
def trained():
    """Models whose every tensor differs from a fresh one, buffers included."""
    models = build_public_models(SPEC, image_shape=SHAPE, num_public_classes=3)
    generator = torch.Generator().manual_seed(1)
    for name in ("autoencoder", "denoiser", "extractor"):
        for tensor in getattr(models, name).state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return models


def test_saved_models_open_with_the_same_weights_in_eval_mode(store, trained):
    opened = open_public_models(SPEC, store, save_models(store, trained))
    for name in ("autoencoder", "denoiser", "extractor"):
        module = getattr(opened, name)
        expected = getattr(trained, name).state_dict()
        assert {k: v.tolist() for k, v in module.state_dict().items()} == {k: v.tolist() for k, v in expected.items()}
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    assert opened.latent_shape == (5,)
    assert opened.num_public_classes == 3


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("denoiser", {"width": 9}, "denoiser"),
        ("denoiser", {"num_blocks": 2}, "denoiser"),
        ("autoencoder", {"latent_dim": 6}, "autoencoder"),
        ("extractor", {"feature_dim": 4}, "extractor"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(store, trained, section, changes, named):
    manifest = save_models(store, trained)
    other = replace(SPEC, **{section: replace(getattr(SPEC, section), **changes)})
    with pytest.raises(ArtifactError, match=f"{named} holds another network"):
        open_public_models(other, store, manifest)


def test_a_network_that_lacks_a_tensor_is_refused():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(ArtifactError, match="here holds another network"):
        load_into(layer, {"weight": torch.zeros(2, 2)}, where="here")


def test_altered_weights_are_refused(store, trained):
    manifest = save_models(store, trained)
    data = bytearray(store.read_bytes("denoiser.safetensors"))
    data[-1] ^= 1
    store.write_bytes("denoiser.safetensors", bytes(data))
    with pytest.raises(ArtifactError, match=r"denoiser\.safetensors does not match"):
        open_public_models(SPEC, store, manifest)


def test_weights_that_the_manifest_does_not_name_are_refused(store, trained):
    manifest = save_models(store, trained)
    with pytest.raises(ArtifactError, match=r"no other\.safetensors"):
        read_weights(store, manifest, "other.safetensors")


def test_fresh_models_are_a_function_of_the_spec_alone():
    def weights(spec):
        models = build_public_models(spec, image_shape=SHAPE, num_public_classes=3)
        parts = (models.autoencoder, models.denoiser, models.extractor)
        return [p.tolist() for module in parts for p in module.parameters()]

    first = weights(SPEC)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert weights(SPEC) == first
    assert weights(replace(SPEC, pretrain=replace(SPEC.pretrain, seed=1))) != first


def test_an_image_is_encoded_the_same_in_any_batch():
    autoencoder = build_public_models(SPEC, image_shape=SHAPE, num_public_classes=3).autoencoder
    image = torch.randint(0, 256, (600, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = encode_pixels(autoencoder, image, device="cpu")
    assert whole.shape == (600, 5)
    for start, stop in ((0, 1), (1, 8), (3, 600)):  # to the bit, wherever the image stands and whoever else is there
        assert torch.equal(encode_pixels(autoencoder, image[start:stop], device="cpu"), whole[start:stop])
    assert encode_pixels(autoencoder, image[:0], device="cpu").shape == (0, 5)
