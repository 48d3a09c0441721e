import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix

from rapid_dist.errors import InputError, SpecError
from rapid_dist.evaluation.classifier import (
    accuracy_of,
    confusion,
    draw_shifted,
    predict,
    scale_pixels,
    summarise_confusion,
    train_classifier,
)

TINY = {"num_classes": 10, "num_epochs": 1, "batch_size": 32, "learning_rate": 5e-3}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Layers this small gain nothing from threads, and lose much when other work holds the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    """The 1,797 8x8 digits as (images uint8, labels), shuffled; the last 500 are the test set."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[:, None]
    return images[order], data.target[order]


@pytest.fixture(scope="module")
def trained(digits):
    images, labels = digits
    return train_classifier(
        images[:1297], labels[:1297], num_classes=10, num_epochs=12, batch_size=64, learning_rate=5e-3, seed=0
    )


def test_digits_are_learnt_to_97_percent(trained, digits):
    result = accuracy_of(trained, digits[0][1297:], digits[1][1297:])
    assert result.accuracy >= 0.97
    assert result.num_examples == 500
    assert result.interval_low < result.accuracy < result.interval_high


def test_shuffled_labels_teach_nothing(digits):
    images, labels = digits
    wrong = np.random.default_rng(1).permutation(labels[:400])
    model = train_classifier(images[:400], wrong, seed=0, **{**TINY, "num_epochs": 4})
    assert accuracy_of(model, images[1297:], labels[1297:]).accuracy < 0.3


def test_same_seed_same_weights_and_global_generator_untouched(digits):
    before = torch.get_rng_state()
    first, same, other = (train_classifier(digits[0][:100], digits[1][:100], seed=seed, **TINY) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_predictions_do_not_depend_on_batch_size_or_order(trained, digits):
    images = digits[0][1297:1330]
    expected = predict(trained, images)
    np.testing.assert_array_equal(predict(trained, images[5:7]), expected[5:7])
    np.testing.assert_array_equal(predict(trained, images[::-1].copy())[::-1], expected)


def test_progress_is_reported_once_an_epoch(digits):
    seen = []
    train_classifier(
        digits[0][:64],
        digits[1][:64],
        seed=0,
        progress_fn=lambda *state: seen.append(state),
        **{**TINY, "num_epochs": 2},
    )
    assert [state[:2] for state in seen] == [(1, 2), (2, 2)]
    assert all(state[2] > 0 for state in seen)


def test_a_single_image_trains():
    model = train_classifier(np.zeros((1, 3, 8, 8), np.uint8), np.array([1]), seed=0, **TINY)
    assert predict(model, np.zeros((2, 3, 8, 8), np.uint8)).shape == (2,)


def test_confusion_equals_sklearn():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    oracle = confusion_matrix(labels, predictions, labels=range(5))
    np.testing.assert_array_equal(confusion(labels, predictions, 5), oracle)


def test_accuracies_of_a_known_confusion_matrix():
    result = summarise_confusion(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert result.accuracy == 7 / 8
    assert result.per_class == (0.75, 1.0, None)


def test_pixels_are_scaled_to_minus_one_to_one():
    np.testing.assert_allclose(scale_pixels(torch.tensor([0, 255], dtype=torch.uint8)), [-1.0, 1.0])


def test_shifts_are_whole_moves_with_repeated_edges_and_equally_likely():
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(1800, 2, 4, 4)
    shifted = draw_shifted(image, 1, torch.Generator().manual_seed(0))
    assert shifted.shape == image.shape
    padded = np.pad(np.arange(16).reshape(4, 4), 1, mode="edge")
    allowed = {padded[y : y + 4, x : x + 4].tobytes(): 0 for y in range(3) for x in range(3)}
    for moved in shifted.numpy().astype(padded.dtype):
        assert np.array_equal(moved[0], moved[1])
        allowed[moved[0].tobytes()] += 1
    assert len(allowed) == 9
    assert min(allowed.values()) > 140
    assert max(allowed.values()) < 260


def test_zero_shift_is_off():
    image = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    assert draw_shifted(image, 0, torch.Generator()) is image


@pytest.mark.parametrize("change", [{"num_epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"max_shift": -1}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(SpecError):
        train_classifier(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1]), seed=0, **{**TINY, **change})


def test_oblong_images_and_unknown_classes_are_refused():
    with pytest.raises(SpecError, match="square"):
        train_classifier(np.zeros((2, 1, 8, 9), np.uint8), np.array([0, 1]), seed=0, **TINY)
    with pytest.raises(InputError, match=r"0\.\.9"):
        train_classifier(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 10]), seed=0, **TINY)
