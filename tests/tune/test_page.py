import json
import math

import pytest

from rapid_dist.errors import InputError, SpecError
from rapid_dist.tune.page import REQUIRED_KEYS, compare_settings, count_statuses, study_page
from rapid_dist.tune.wording import MODES, SECRET, UNNAMED
from tests.evaluation.test_report_page import Page

from .example_rows import make_row, make_rows

STUDY = {
    "name": "letters",
    "mode": "public_proxy",
    "objective": "proxy_accuracy",
    "searcher": "random",
    "scheduler": "fifo",
    "num_trials": 4321,
    "space": {
        "schedule.split_step": {"int": [300, 900], "step": 100},
        "schedule.kind": {"choice": ["linear", "cosine"]},
    },
    "base": {"schedule.split_step": 700, "schedule.kind": "linear", "privacy.target_epsilon": 10.0},
    "best": {"schedule.split_step": 500, "schedule.kind": "linear", "privacy.target_epsilon": 10.0},
    "reused": [{"what": "pretrained models", "times": 1357, "seconds_saved": 125.0}],
    "transfer": "At epsilon 7.77 the private run gained 2 points.",
}
STATEMENT = {
    "words": "The images are (9.876, 1e-05)-differentially private.",
    "sentences": ["The images are (9.876, 1e-05)-differentially private.", "It covers all trials."],
    "epsilon": 9.8711,
    "delta": 1e-5,
    "target_epsilon": 10.0,
    "assumptions": ["the space is public"],
    "not_private_reasons": [],
}
PICTURES = {
    "score_over_split_step": b"\x89PNG a",
    "noise_over_steps": b"\x89PNG b",
    "parallel_coordinates": b"\x89PNG c",
}


def render(rows=None, statement=STATEMENT, pictures=PICTURES, **changes):
    return study_page({**STUDY, **changes}, make_rows(16) if rows is None else rows, statement, pictures)


@pytest.mark.parametrize("mode", [*MODES, None])
@pytest.mark.parametrize("rows", [[], make_rows(16)], ids=["no rows", "rows"])
def test_the_page_is_well_formed_and_needs_nothing_from_outside(mode, rows):
    html = render(rows, mode=mode)
    page = Page(html)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "form"} & set(names)
    assert "http://" not in html
    assert "https://" not in html
    assert names.count("h1") == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(ids)
        assert not any(key.startswith("on") for key in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"]


@pytest.mark.parametrize("mode", MODES)
def test_the_page_says_what_the_mode_costs_and_assumes(mode):
    text = Page(render(mode=mode)).text
    assert all(words in text for words in MODES[mode].values())
    others = [words["cost"] for name, words in MODES.items() if name != mode]
    assert not any(words in text for words in others)


def test_the_statement_is_on_the_page_once_and_epsilon_is_not_rounded_down():
    text = Page(render()).text
    assert text.count("(9.876, 1e-05)-differentially private") == 1
    assert "It covers all trials." in text
    assert "Epsilon, everything released together 9.88" in text
    assert "the space is public" in text


def test_without_a_mode_no_epsilon_is_printed_whatever_is_handed_over():
    rows = [make_row(i, epsilon=6.543) for i in range(3)]
    html = render(rows, mode=None)
    text = Page(html).text
    assert UNNAMED in text
    assert "epsilon" not in text.replace(UNNAMED, "").lower()
    for number in ("9.87", "9.88", "6.54", "7.77", "1e-05", "1e-5"):
        assert number not in html
    assert html.count("<img") == 2
    with_mode = render(rows, mode="compose")
    assert "6.543" in with_mode
    assert with_mode.count("<img") == 3


def test_repeat_select_shows_the_winners_settings_and_nothing_of_the_trials():
    """Neither their number, settings, scores, pictures nor what was reused how often."""
    rows = [make_row(i, score=0.4821, seconds=987.0, proposal={"schedule.split_step": 377}) for i in range(3)]
    html = render(rows, mode="repeat_select")
    text = Page(html).text
    assert SECRET in text
    assert "500" in text
    assert "It covers all trials." in text
    for secret in ("0.4821", "377", "t0000", "4321", "1357", "16 min", "pretrained models", "<img", "3 finished"):
        assert secret not in html
    assert html == render(make_rows(40), mode="repeat_select", pictures={})


@pytest.mark.parametrize("mode", [*MODES, None])
def test_how_long_trials_took_is_shown_only_where_no_private_image_was_read(mode):
    text = Page(render([make_row(i, seconds=4321.0) for i in range(3)], mode=mode)).text
    assert ("1 h 12 min" in text) == (mode in ("public_proxy", None))


def test_hostile_text_is_escaped_wherever_it_comes_from():
    evil = "<script>alert(1)</script>"
    row = make_row(0, trial=evil, status="failed", reason=evil, proposal={evil: evil, "a.b": [evil]}, score=None)
    html = render(
        [row],
        statement={**STATEMENT, "words": evil, "sentences": [evil], "assumptions": [evil], "unit": evil},
        pictures={f'"{evil}': b"\x89PNG"},
        name=evil,
        objective=evil,
        searcher=evil,
        scheduler=evil,
        space={evil: {"choice": [evil]}},
        base={evil: evil},
        best={evil: evil},
        reused=[{"what": evil, "times": 1, "seconds_saved": 1.0}],
        transfer=evil,
    )
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in Page(html).tags}
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 15


def test_reasons_of_failed_trials_stay_off_pages_of_modes_that_read_private_images():
    rows = [make_row(0, status="failed", score=None, reason="cannot read anna.png")]
    assert "anna.png" in render(rows)
    for mode in ("compose", "subset", "repeat_select", None):
        assert "anna.png" not in render(rows, mode=mode)


def test_a_study_that_is_not_private_is_stamped_and_states_no_epsilon():
    html = render(statement={**STATEMENT, "not_private_reasons": ["a fixed key"], "words": "NOT PRIVATE: a fixed key"})
    text = Page(html).text
    assert "NOT PRIVATE a fixed key." in text
    assert "Epsilon, everything" not in text


def test_missing_parts_say_so():
    text = Page(render([], statement=None, pictures={}, best=None, reused=[], transfer="")).text
    for words in ("nothing to state yet", "No settings were selected", "No trial began", "Nothing was reused"):
        assert words in text
    assert "no privacy statement was given" in Page(render(statement=None, mode="compose")).text


def test_many_trials_are_cut_and_the_page_says_so():
    rows = [make_row(i, score=i / 1000) for i in range(250)]
    html = render(rows)
    assert "showing 200 of 250" in html
    assert "t0249" in html
    assert ">t0049<" not in html


def test_settings_are_compared_key_by_key():
    assert compare_settings({"a": 1, "b": "x"}, {"a": 1, "c": 2.5}) == [
        ("a", "1", "1", False),
        ("b", "x", "-", True),
        ("c", "-", "2.5", True),
    ]


def test_statuses_are_counted():
    rows = [make_row(i, status=status) for i, status in enumerate(("failed", "finished", "failed"))]
    assert count_statuses(rows) == [("finished", 1), ("failed", 2)]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="lacks \\['best'\\]"):
        study_page({key: STUDY[key] for key in REQUIRED_KEYS - {"best"}}, [], None, {})
    with pytest.raises(SpecError, match="study mode is 'free'"):
        render(mode="free")
    with pytest.raises(InputError, match="use fewer or smaller pictures"):
        render(pictures={"parallel_coordinates": bytes(2_000_000)})


def test_rows_with_lost_scores_still_make_plain_json_and_a_page():
    rows = [make_row(0, score=math.nan), make_row(1, score=math.inf)]
    json.dumps([row.to_dict() for row in rows], allow_nan=False)
    text = Page(render(rows)).text
    assert "No trial finished with a score" in text
    assert "nan" not in text.lower().split()
