"""The commands that only count: their numbers are the library's, and a bad ledger gives none."""

from __future__ import annotations

import json

import pytest

from rapid_dist import layout
from rapid_dist.privacy.ledger import read_ledger

pytestmark = pytest.mark.usefixtures("no_ray")

SETTINGS = ("--sample-rate", 0.25, "--steps", 12, "--delta", 1e-3)


def answer(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_calibrated_noise_meets_the_target_and_a_little_less_does_not(call):
    noise = answer(call("calibrate", "--target-epsilon", 8, *SETTINGS, "--json"))["noise_multiplier"]
    met, missed = (
        answer(call("epsilon", "--noise-multiplier", m, *SETTINGS, "--json"))["pld"] for m in (noise, noise - 0.001)
    )
    assert met <= 8 < missed


def test_epsilon_in_words_is_the_number_in_json(call):
    options = ("epsilon", "--noise-multiplier", 1.0, *SETTINGS)
    number = answer(call(*options, "--json"))["pld"]
    assert f"PLD {number:.4f}" in call(*options).stdout


def test_replacing_a_record_costs_more_and_needs_more_noise(call):
    relation = ("--neighboring-relation", "replace_one")
    options = ("--noise-multiplier", 2.0, *SETTINGS, "--json")
    added, replaced = (answer(call("epsilon", *options, *extra)) for extra in ((), relation))
    assert replaced["pld"] > added["pld"]
    assert (replaced["prv"], replaced["rdp"]) == (None, None)
    assert "PLD stands alone" in call("epsilon", *options[:-1], *relation).stdout
    assert (added["neighboring_relation"], replaced["neighboring_relation"]) == ("add_or_remove_one", "replace_one")
    target = ("calibrate", "--target-epsilon", 8, *SETTINGS, "--json")
    assert answer(call(*target, *relation))["noise_multiplier"] > answer(call(*target))["noise_multiplier"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("--noise-multiplier", 0, "noise_multiplier is 0.0; expected more than 0"),
        ("--sample-rate", 2, "sample_rate is 2.0; expected more than 0 and at most 1"),
        ("--steps", 0, "num_steps is 0; expected 1 to"),
        ("--delta", 0, "delta is 0"),
        ("--delta", 1, "delta is 1"),
    ],
)
def test_a_value_out_of_range_is_named(refused, name, value, words):
    assert words in refused("epsilon", "--noise-multiplier", 1.0, *SETTINGS, name, value)


def test_a_target_that_cannot_be_is_refused(refused):
    assert "target_epsilon is -1" in refused("calibrate", "--target-epsilon", -1, *SETTINGS)


def test_the_ledger_of_a_run_is_shown_and_verified(call, finished_run):
    paid = read_ledger(finished_run.ledger)
    shown = answer(call("ledger", "show", finished_run.out.uri, "--json"))
    assert shown["charges"] == [charge.to_dict() for charge in paid.charges]
    assert (shown["spent_epsilon"], shown["attempts"]) == (paid.spent_epsilon(), 1)
    verified = answer(call("ledger", "verify", finished_run.out.uri, "--json"))
    assert (verified["head"], verified["pld"]) == (paid.head, pytest.approx(paid.spent_epsilon()))
    assert f"epsilon {paid.spent_epsilon():.4f} of 8" in call("ledger", "show", finished_run.out.uri).stdout
    assert paid.head in call("ledger", "verify", finished_run.out.uri).stdout


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_missing_or_altered_ledger_gives_no_number(refused, copied_run, tmp_path, command):
    assert "holds no ledger; without it nothing is known" in refused("ledger", command, tmp_path / "nowhere")
    entry = sorted((copied_run / layout.PRIVATE_IMAGES / layout.LEDGER).iterdir())[2]
    entry.write_text(entry.read_text().replace('"num_steps":1,', '"num_steps":2,'))
    assert "is not valid: its digest does not match" in refused("ledger", command, copied_run)
