import math

import pytest

from rapid_dist.evaluation import wording
from rapid_dist.evaluation.report import odds_table, without_private_values

from .example_report import STATEMENT, make_report


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        *((0.5, "0.50"), (0.07, "0.07"), (0.9901, "1.00"), (1e-9, "0.01"), (10, "10.00")),
        *((2.994999, "3.00"), (None, "no limit")),
    ],
)
def test_epsilon_is_rounded_up_to_two_decimals(epsilon, text):
    assert wording.format_epsilon(epsilon) == text


@pytest.mark.parametrize(("delta", "text"), [(1e-5, "1e-5"), (1.6612e-6, "1.67e-6"), (0, "0"), (9.999e-6, "1e-5")])
def test_delta_is_rounded_up_to_three_digits(delta, text):
    assert wording.format_delta(delta) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.943, "94.3%"), (1.0, "100.0%"), (0.9996, "99.96%"), (0.0, "0.0%"), (0.0002, "0.02%")]
)
def test_measured_shares_keep_apart_from_all_and_none(share, text):
    assert wording.format_percent(share) == text


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.5, 1, 2, 4, 8, 10, 12])
def test_bounds_are_never_rounded_down(epsilon):
    for share in list(odds_table(epsilon, 1e-5).values())[1:]:
        shown = float(wording.format_bound(share).rstrip("%"))
        assert shown >= 100 * share - 1e-12
        assert shown <= 100 or share == 1
        assert shown - 100 * share <= 0.01


@pytest.mark.parametrize(
    ("factor", "text"), [(1.6487, "1.65"), (22026.4, "22,027"), (1.234e30, "1.24e30"), (None, "e^epsilon")]
)
def test_factors_are_rounded_up(factor, text):
    assert wording.format_factor(factor) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.25, "4.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.99, "60.0 s")]
)
def test_durations_are_given_in_the_largest_unit(seconds, text):
    assert wording.format_seconds(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(60000, "60,000"), (47.0, "47"), (12.3456, "12.35"), ("x", "x")])
def test_numbers_of_tables(value, text):
    assert wording.format_number(value) == text


def test_promise_at_epsilon_one_half():
    assert wording.promise_sentences(make_report(0.5)) == [
        "Adding or removing one image in the private data changes the chance of any outcome by a factor of at "
        "most 1.65, plus 1e-5. That is epsilon 0.50 at delta 1e-5.",
        "Someone who knows everything else and must say, at even odds, whether one image was used is right at "
        "most 62.25% of the time; tossing a coin is right 50%.",
        "If they may wrongly name 1 in 100 that were not used, they find at most 1.65% of those that were; "
        "at 1 in 1,000, at most 0.17%.",
    ]


@pytest.mark.parametrize("epsilon", [3.0, 8.0, 10.0, 100.0, 1000.0])
def test_a_large_epsilon_is_called_loose_and_never_strong(epsilon):
    text = " ".join(wording.promise_sentences(make_report(epsilon)))
    assert "The formal limit is loose" in text
    assert "cannot prove safety" in text
    assert "strong" not in text.lower()


def test_a_run_without_guarantee_promises_nothing():
    for report in (make_report(math.inf), make_report(1.0, not_private_reasons=["dry run"])):
        (sentence,) = wording.promise_sentences(report)
        assert sentence.startswith("This run makes no promise about anyone: ")
        assert wording.tiles(report)[0]["value"] == "None"


def test_tiles_at_epsilon_one_half():
    assert wording.tiles(make_report(0.5)) == [
        {
            "label": "Promise",
            "value": "epsilon 0.50, delta 1e-5",
            "reference": "target 0.50; a guess is right at most 62.25%, a coin 50%",
        },
        {
            "label": "Usefulness",
            "value": "94.3% accuracy",
            "reference": "public data only 61.2%; private data, without privacy 99.3%",
        },
        {
            "label": "Copy check",
            "value": "0 identical; 50.7% closer to training",
            "reference": "50% if nothing is copied; interval 49.3% to 52.1%",
        },
        {
            "label": "Images made",
            "value": "60,000",
            "reference": "47 denoiser evaluations each; a full run 100",
        },
    ]


def test_tiles_of_the_shared_page_at_epsilon_ten():
    shared = without_private_values(make_report(10.0))
    reason = "kept inside, since private images went into it without protection"
    assert wording.tiles(shared)[:3] == [
        {
            "label": "Promise",
            "value": "epsilon 10.00, delta 1e-5",
            "reference": "target 10.00; a guess is right at most 99.996%, a coin 50%",
        },
        {"label": "Usefulness", "value": "Not shown", "reference": reason},
        {"label": "Copy check", "value": "Not shown", "reference": reason},
    ]


def test_a_missing_value_says_why():
    report = make_report(copy_check=None, reasons={"copy_check": "no held-out images"})
    assert wording.why_missing(report, "copy_check") == "Not measured: no held-out images"


def test_the_statement_gives_both_epsilons_the_accountants_and_the_hardening():
    rows = dict(wording.statement_rows(make_report()))
    assert rows["Epsilon, assuming Poisson sampling"].startswith("1.00,")
    assert rows["Epsilon without credit for sampling"].startswith("3.22,")
    assert rows["Counted by"] == "PLD 1.00, PRV 1.01, RDP 1.09 (dp-accounting 0.6.0)"
    assert rows["Hardening"] == "floating point hardened"
    assert rows["Last ledger entry"] == STATEMENT["ledger_head"]


def test_an_accountant_that_gave_nothing_is_said_to_be_missing():
    accountants = {**STATEMENT["accountants"], "prv": None}
    rows = dict(wording.statement_rows(make_report(statement={**STATEMENT, "accountants": accountants})))
    assert rows["Counted by"] == "PLD 1.00, RDP 1.09, PRV not available (dp-accounting 0.6.0)"


def test_only_severities_in_use_are_explained():
    report = make_report()
    assert [name for name, _ in wording.severity_rows(report)] == ["Theoretical", "Negligible"]
    assert {row["severity"] for row in wording.limit_rows(report)} == {"Theoretical", "Negligible"}


def test_without_a_statement_or_a_guarantee_no_statement_is_shown():
    assert wording.statement_rows(make_report(statement=None)) == []
    assert wording.limit_rows(make_report(statement=None)) == wording.outside_rows(make_report(statement=None)) == []
    assert wording.statement_rows(make_report(not_private_reasons=["fixed key"])) == []
