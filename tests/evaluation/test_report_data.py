import dataclasses
import json
import math

import numpy as np
import pytest

from rapid_dist.errors import SpecError
from rapid_dist.evaluation.report import REASON_NOT_ASKED, REASON_WITHHELD, without_private_values
from tests.wall_times import keys_of_times

from .example_report import LIKENESS, STATEMENT, make_accuracy, make_report

PROMISED_KEYS = {
    *("target_epsilon", "spent_epsilon", "delta", "neighboring_relation", "unit", "accuracy", "accuracy_detail"),
    *("fid", "fid_features", "precision", "recall", "density", "coverage", "copy_check"),
    *("denoiser_evaluations_per_image", "stage_seconds", "outside_guarantee", "assumptions", "not_measured"),
    *("privacy_class", "statement"),
}
NOTHING = {
    "accuracies": {},
    "likeness": None,
    "copy_check": None,
    "denoiser_evaluations": None,
    "stage_seconds": None,
    "num_images": None,
    "statement": None,
}


@pytest.mark.parametrize("changes", [{}, NOTHING])
def test_every_promised_key_is_present_and_json_keeps_the_report(changes):
    report = make_report(**changes)
    assert set(report) >= PROMISED_KEYS
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_plain_accuracies_stand_beside_their_detail():
    report = make_report()
    assert report["accuracy"] == {"synthetic": 0.943, "public_only": 0.612, "real": 0.993}
    assert report["accuracy_detail"]["synthetic"]["interval_low"] < 0.943
    assert len(report["accuracy_detail"]["real"]["per_class"]) == 10


def test_the_statement_is_carried_whole_also_in_the_copy_to_share():
    report = make_report()
    assert report["statement"] == STATEMENT == without_private_values(report)["statement"]


def test_missing_values_are_null_with_a_reason():
    report = make_report(**NOTHING, reasons={"fid": "no reference images", "accuracy.real": "not allowed"})
    assert report["fid"] is report["accuracy"]["real"] is report["copy_check"] is report["stage_seconds"] is None
    reasons = report["not_measured"]
    assert reasons["fid"] == reasons["fid_features"]
    assert (reasons["fid"], reasons["accuracy.real"]) == ("no reference images", "not allowed")
    for key in ("precision", "copy_check", "accuracy.synthetic", "num_images", "denoiser_evaluations_per_image"):
        assert reasons[key] == REASON_NOT_ASKED


def test_measured_values_have_no_reason_even_when_one_is_given():
    assert make_report(reasons={"fid": "never shown"})["not_measured"] == {}


def test_figures_from_private_images_are_outside_the_guarantee():
    report = make_report()
    assert set(report["outside_guarantee"]) == {
        *("accuracy.synthetic", "accuracy.public_only", "accuracy.real", "copy_check"),
        *("fid", "precision", "recall", "density", "coverage", "fid_features", "stage_seconds"),
    }
    assert report["privacy_class"] == "private"


def test_public_references_leave_only_what_was_trained_on_private_images():
    public = {"test_class": "public", "reference_class": "public", "copy_check": None, "stage_seconds": None}
    report = make_report(**public)
    assert report["outside_guarantee"] == ["accuracy.real"]
    report = make_report(**public, accuracies={"synthetic": make_accuracy(0.9)})
    assert (report["outside_guarantee"], report["privacy_class"]) == ([], "dp")


def test_wall_times_alone_make_a_report_private():
    """Training reads private images: how long it took grows with them."""
    report = make_report(
        test_class="public",
        reference_class="public",
        copy_check=None,
        accuracies={"synthetic": make_accuracy(0.9)},
        stage_seconds={"train": 12.3},
    )
    assert (report["outside_guarantee"], report["privacy_class"]) == (["stage_seconds"], "private")
    assert without_private_values(report)["privacy_class"] == "dp"


def test_a_run_without_guarantee_is_private_whatever_was_measured():
    report = make_report(**NOTHING, not_private_reasons=["dry run"])
    assert report["privacy_class"] == "private"
    assert without_private_values(report)["privacy_class"] == "private"


def test_infinite_epsilon_is_null_and_stamped():
    report = make_report(math.inf)
    assert report["spent_epsilon"] is None
    assert report["not_measured"]["spent_epsilon"] == "came out as inf"
    assert report["not_private_reasons"] == ["epsilon is infinite: the run gives no bound"]


def test_a_distance_that_is_not_a_number_is_null_with_that_reason():
    report = make_report(likeness=dataclasses.replace(LIKENESS, fid=float("nan")))
    assert report["fid"] is None
    assert report["not_measured"]["fid"] == "came out as nan"


def test_numpy_numbers_become_plain_ones():
    report = make_report(stage_seconds={"train": np.float32(1.5)}, num_images=np.int64(3))
    assert type(report["num_images"]) is int
    assert type(report["stage_seconds"]["train"]) is float


def test_the_shared_copy_holds_no_private_figure_and_leaves_the_original_whole():
    report = make_report()
    before = json.dumps(report)
    shared = without_private_values(report)
    assert json.dumps(report) == before
    assert (shared["privacy_class"], shared["outside_guarantee"]) == ("dp", [])
    text = json.dumps(shared)
    for private_figure in ("0.943", "0.612", "0.993,", "12.34", "0.507", "5.312", "54321"):
        assert private_figure in before
        assert private_figure not in text
    withheld = [key for key in report["outside_guarantee"] if key != "stage_seconds"]
    assert all(shared["not_measured"][key] == REASON_WITHHELD for key in withheld)


@pytest.mark.parametrize("stage_seconds", [{"ingest private": 4.2, "train": 1810.7}, {}])
def test_the_shared_copy_holds_no_wall_time_of_any_stage(stage_seconds):
    report = make_report(stage_seconds=stage_seconds)
    shared = without_private_values(report)
    assert "stage_seconds" in report
    assert keys_of_times(shared) == []
    assert "stage_seconds" not in shared["not_measured"]
    assert "1810.7" not in json.dumps(shared)


def test_unknown_names_are_refused():
    with pytest.raises(SpecError, match="test_class"):
        make_report(test_class="secret")
    with pytest.raises(SpecError, match="unknown accuracies"):
        make_report(accuracies={"other": None})
