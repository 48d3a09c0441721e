import io
import itertools

import numpy as np
import pytest
from PIL import Image

from rapid_dist.tune.plots import PIXELS_WIDE, _figure, _Scale, noise_over_steps, parallel_coordinates, score_over

from .example_rows import make_row, make_rows

CASES = {
    "none": [],
    "one": make_rows(1),
    "many": make_rows(20),
    "all equal": [make_row(i, steps=10, noise_multiplier=1.0, expected_batch_size=8.0) for i in range(4)],
    "no scores": [make_row(i, score=None, status="failed", steps=10, noise_multiplier=1.0) for i in range(3)],
    "hostile": [
        make_row(0, proposal={"a.x": "$x_{$" * 30 + "\n<b>", "a.$_{$": "$_{$", "a.none": None}),
        make_row(1, proposal={"a.x": True, "b.y": [1, 2]}),
    ],
    "negative": [make_row(i, score=-10.0 * i, proposal={"a.x": -float(i), "b.y": 10.0**-i}) for i in range(9)],
}


def decode(png):
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert image.shape[1] == PIXELS_WIDE
    return image


@pytest.mark.parametrize("name", CASES)
def test_every_picture_is_a_png_of_the_promised_width_with_ink_on_it(name):
    rows = CASES[name]
    for png in (
        score_over(rows, "a.x" if name == "hostile" else "schedule.split_step", "proxy_accuracy", default=700),
        noise_over_steps(rows, 10.0),
        parallel_coordinates(rows, "public_fid", log_keys=("a.x", "b.y", "training.learning_rate")),
    ):
        image = decode(png)
        assert 500 <= image.shape[0] <= 800
        assert (image < 100).any()


def test_the_same_rows_give_the_same_picture():
    assert parallel_coordinates(make_rows(5), "public_fid") == parallel_coordinates(make_rows(5), "public_fid")


def count_colour(png, colour):
    return int((np.abs(decode(png).astype(int) - colour).max(axis=2) <= 8).sum())


def test_the_default_is_marked_when_given_and_the_best_always():
    vermilion = (0xD5, 0x5E, 0x00)
    with_best = score_over(make_rows(5), "schedule.split_step", "proxy_accuracy")
    without = score_over(CASES["no scores"], "schedule.split_step", "proxy_accuracy")
    assert count_colour(with_best, vermilion) > 50
    assert count_colour(without, vermilion) == 0
    assert score_over(make_rows(5), "schedule.split_step", "proxy_accuracy", default=500) != with_best


def test_failed_trials_are_grey_and_scored_ones_are_not():
    grey = (0xB8, 0xB8, 0xB8)
    rows = [make_row(i, proposal={"a.x": i, "b.y": i}, score=float(i)) for i in range(4)]
    failed = [make_row(9, proposal={"a.x": 1, "b.y": 3}, score=None, status="failed")]
    before = parallel_coordinates(rows, "proxy_accuracy")
    after = parallel_coordinates(rows + failed, "proxy_accuracy")
    assert count_colour(after, grey) > count_colour(before, grey) + 100


def test_a_scale_maps_ends_to_0_and_1_by_size_or_logarithm():
    assert [_Scale([10, 20, 30], is_log=False).share(v) for v in (10, 20, 30)] == [0, 0.5, 1]
    assert [_Scale([1e-4, 1e-2], is_log=True).share(v) for v in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert _Scale([0.0, 1.0], is_log=True).share(0.5) == 0.5  # no logarithm of 0: the plain scale
    assert _Scale([7, 7], is_log=False).share(7) == pytest.approx(0.5)


def test_words_lie_at_even_distances():
    scale = _Scale(["b", "a", "c", "a"], is_log=True)
    assert [scale.share(v) for v in ("a", "b", "c")] == [0, 0.5, 1]
    assert scale.ticks() == [(0.0, "a"), (1.0, "b"), (2.0, "c")]


def test_few_values_are_the_ticks_and_many_get_round_ones():
    assert _Scale([300, 500, 900], is_log=False).ticks() == [(300.0, "300"), (500.0, "500"), (900.0, "900")]
    many = _Scale([i / 7 for i in range(100)], is_log=False).ticks()
    assert 4 <= len(many) <= 7
    assert all(0 <= place <= 99 / 7 for place, _ in many)


def test_long_words_stay_apart_though_their_labels_are_cut_and_many_words_get_few_labels():
    words = ["x" * 40 + str(i) for i in range(25)]
    scale = _Scale(words, is_log=False)
    assert len({scale.place(word) for word in words}) == 25
    assert len(scale.ticks()) <= 10
    assert max(len(label) for _, label in scale.ticks()) == 14


def test_long_words_below_an_axis_are_tilted_so_that_they_do_not_overlap():
    figure, axes = _figure(5.2)
    words = [f"word number {i}" for i in range(10)]
    scale = _Scale(words, is_log=False)
    scale.dress(axes.xaxis, axes.set_xlim)
    assert all(label.get_rotation() == 20 for label in axes.get_xticklabels())
    figure.draw_without_rendering()
    starts = [label.get_window_extent().x0 for label in axes.get_xticklabels()]
    assert min(b - a for a, b in itertools.pairwise(starts)) > 40
