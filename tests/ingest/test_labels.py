"""Labels: text is looked up, integers are bounded, and a missing label is -1."""

import pytest

from rapid_dist.errors import InputError
from rapid_dist.ingest.units import class_indices


def test_text_integers_and_missing_labels():
    names = ("cat", "dog")
    assert class_indices(["dog", None, "cat"], class_names=names, where="f") == [1, -1, 0]
    assert class_indices([1, -1, 0], class_names=names, where="f") == [1, -1, 0]
    assert class_indices([900], class_names=None, where="f") == [900]


@pytest.mark.parametrize("label", [-2, 2])
def test_integers_outside_the_classes_are_refused(label):
    with pytest.raises(InputError, match=rf"f has label {label}; expected 0 to 1, or -1 for none"):
        class_indices([label], class_names=("a", "b"), where="f")


def test_integers_that_do_not_fit_int32_are_refused():
    with pytest.raises(InputError, match="f has label 4294967296"):
        class_indices([2**32], class_names=None, where="f")
