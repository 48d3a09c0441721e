import hashlib
import warnings

import numpy as np
import pytest
import torch

from rapid_dist.errors import ArtifactError, InputError
from rapid_dist.evaluation.classifier import SmallCnn, scale_pixels
from rapid_dist.evaluation.likeness import classifier_features, digest_weights, inception_features


class ChannelMeans(torch.nn.Module):
    """(B, 3, H, W) uint8 to (B, 3); returns wrong things unless asked for features."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        means = img.float().mean(dim=[2, 3])
        return means if return_features else means.sum(dim=1)


class PlainMeans(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean(dim=[2, 3])


class NoFeatures(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def save_script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path))
    return path


def draw_images(num=5, channels=3, size=9):
    return np.random.default_rng(0).integers(0, 256, (num, channels, size, size), dtype=np.uint8)


def make_cnn(seed=0, num_channels=1):
    return SmallCnn(
        num_channels=num_channels,
        image_size=8,
        num_classes=3,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("module", [ChannelMeans(), PlainMeans()])
def test_scripted_network_gives_its_features_with_or_without_the_flag(module, tmp_path):
    extractor = inception_features(save_script(module, tmp_path / "net.pt"), batch_size=2)
    images = draw_images()
    features = extractor.extract(images)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, images.mean(axis=(2, 3)), rtol=1e-5)
    assert (extractor.name, extractor.num_features) == ("inception:net.pt", 3)


def test_grey_is_repeated_to_three_channels(tmp_path):
    extractor = inception_features(save_script(PlainMeans(), tmp_path / "net.pt"))
    grey = draw_images(channels=1)
    np.testing.assert_allclose(extractor.extract(grey), np.repeat(grey.mean(axis=(2, 3)), 3, axis=1), rtol=1e-5)


def test_digest_of_a_script_is_the_sha256_of_its_file(tmp_path):
    path = save_script(PlainMeans(), tmp_path / "net.pt")
    assert inception_features(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no file"):
        inception_features(tmp_path / "absent.pt")


def test_a_python_pickle_is_refused_without_being_loaded(tmp_path):
    path = tmp_path / "pickle.pt"
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(ArtifactError, match="not TorchScript"):
        inception_features(path)
    path.write_bytes(b"not even a zip file")
    with pytest.raises(ArtifactError, match="not TorchScript"):
        inception_features(path)


def test_a_script_without_feature_vectors_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"expected features \(1, d\)"):
        inception_features(save_script(NoFeatures(), tmp_path / "net.pt"), probe_size=8)


def test_a_script_that_fails_on_images_is_refused(tmp_path):
    path = save_script(torch.nn.Linear(5, 2), tmp_path / "net.pt")
    with pytest.raises(ArtifactError, match="fails on one 8 px"):
        inception_features(path, probe_size=8)


def test_classifier_features_are_the_penultimate_layer_in_any_batching():
    model = make_cnn()
    images = draw_images(channels=1, size=8)
    with torch.inference_mode():
        expected = model.eval().penultimate(scale_pixels(torch.from_numpy(images))).numpy()
    for batch_size in (1, 2, 100):
        extractor = classifier_features(model, batch_size=batch_size)
        np.testing.assert_allclose(extractor.extract(images), expected, rtol=1e-4, atol=1e-5)
    assert (extractor.name, extractor.num_features) == ("public-cnn-128", 128)


def test_channels_are_fitted_to_the_classifier():
    grey = draw_images(channels=1, size=8)
    rgb = np.repeat(grey, 3, axis=1)
    extractor = classifier_features(make_cnn())
    np.testing.assert_allclose(extractor.extract(rgb), extractor.extract(grey), rtol=1e-4, atol=1e-5)
    assert classifier_features(make_cnn(num_channels=3)).extract(grey).shape == (5, 128)


def test_digest_of_weights_changes_with_one_weight():
    model = make_cnn()
    before = digest_weights(model)
    assert before == digest_weights(make_cnn())
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert digest_weights(model) != before
