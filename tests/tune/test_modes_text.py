import pytest

from rapid_dist.tune.wording import MODES, UNNAMED, axis_words, log_keys, objective_words, value_words


def test_each_mode_says_what_it_does_costs_and_assumes():
    assert set(MODES) == {"public_proxy", "repeat_select", "compose", "subset"}
    for words in MODES.values():
        assert set(words) == {"what", "cost", "assumes"}


def test_without_a_mode_the_text_says_that_no_epsilon_is_printed_and_names_all_modes():
    assert "no epsilon is printed" in UNNAMED
    assert all(name in UNNAMED for name in MODES)


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ({"choice": ["linear", 3, None, True]}, "one of linear, 3, none, true"),
        ([1, 2], "one of 1, 2"),
        ({"uniform": [0.1, 0.5]}, "0.1 to 0.5, even"),
        ({"log": [1e-4, 1e-2]}, "0.0001 to 0.01, even in the logarithm"),
        ({"int": [300, 900], "step": 100}, "300 to 900, whole numbers in steps of 100"),
        ({"log_int": [16, 256]}, "16 to 256, whole numbers, even in the logarithm"),
        ({"unheard": 3}, "unheard 3"),
    ],
)
def test_an_axis_in_words(axis, words):
    assert axis_words(axis) == words


def test_log_keys_are_those_searched_in_the_logarithm():
    space = {"a": {"log": [1, 2]}, "b": {"int": [1, 2]}, "c": {"log_int": [1, 9]}, "d": [1, 2]}
    assert log_keys(space) == ["a", "c"]


def test_values_and_unknown_objectives_are_shown_short_and_whole():
    assert [value_words(v) for v in (1234, 60_000, 0.123456, False, [1, 0.5])] == [
        *("1234", "60,000", "0.1235", "false", "[1, 0.5]"),
    ]
    assert objective_words("of_my_own") == "of_my_own"
