import numpy as np
import pytest

from rapid_dist.errors import InputError
from rapid_dist.evaluation.classifier import check_features, check_images, check_labels


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 1, 8, 8), np.float32),
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((0, 1, 8, 8), np.uint8),
        np.zeros((2, 2, 8, 8), np.uint8),
        [[0]],
    ],
)
def test_images_of_another_kind_are_refused_with_what_was_expected(images):
    with pytest.raises(InputError, match="expected"):
        check_images(images, "samples")


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0], [0.0, 1.0]])
def test_labels_out_of_range_or_kind_are_refused(labels):
    with pytest.raises(InputError, match="expected"):
        check_labels(np.array(labels), 2, 3, "labels")


def test_labels_come_back_as_int64():
    assert check_labels(np.array([0, 2], np.uint8), 2, 3, "labels").dtype == np.int64


def test_features_must_be_finite():
    with pytest.raises(InputError, match="NaN"):
        check_features(np.array([[0.0], [np.nan]]), "features")
