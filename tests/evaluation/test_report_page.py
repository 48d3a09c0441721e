import base64
import json
import math
import re
from html.parser import HTMLParser

import pytest

from rapid_dist.errors import InputError
from rapid_dist.evaluation.page import plot_axis, render_report
from rapid_dist.evaluation.report import without_private_values

from .example_report import STATEMENT, make_report

NOTHING = {
    "accuracies": {},
    "likeness": None,
    "copy_check": None,
    "denoiser_evaluations": None,
    "stage_seconds": None,
    "num_images": None,
}
VOID = {"meta", "img", "br", "line", "circle", "path", "rect", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, ids and text; fails on a tag closed in the wrong order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


REPORTS = {
    "internal": make_report(),
    "shared": without_private_values(make_report(10.0)),
    "empty": make_report(**NOTHING),
    "not private": make_report(math.inf, not_private_reasons=["seeded noise"]),
}


@pytest.mark.parametrize("name", REPORTS)
def test_page_is_well_formed_and_needs_nothing_from_outside(name):
    html = render_report(REPORTS[name], grid_png=b"\x89PNG")
    page = Page(html)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "form"} & set(names)
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert names.count("h1") == 1
    policy = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    for tag, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"]


@pytest.mark.parametrize("name", REPORTS)
def test_ids_are_unique_and_every_reference_to_one_is_met(name):
    page = Page(render_report(REPORTS[name], grid_png=None))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(ids)


def test_hostile_names_are_escaped():
    attack = '<script>alert(1)</script>"onload="x'
    html = render_report(
        make_report(
            title=attack,
            class_names=[attack] * 10,
            assumptions=[attack],
            stage_seconds={attack: 1.0},
            run_facts={attack: attack},
            not_private_reasons=[attack],
        ),
        grid_png=b"png",
    )
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert '"onload' not in html
    Page(html)


def test_banners_follow_the_class_and_the_reasons():
    texts = {name: Page(render_report(report, grid_png=None)).text for name, report in REPORTS.items()}
    assert "INTERNAL Keep this page inside" in texts["internal"]
    assert "NOT PRIVATE" not in texts["internal"]
    assert "INTERNAL" not in texts["shared"]
    assert "SHAREABLE" in texts["shared"]
    assert "NOT PRIVATE This run gives no guarantee: seeded noise;" in texts["not private"]
    assert "INTERNAL" in texts["not private"]


def test_page_survives_the_trip_through_json():
    report = make_report()
    assert render_report(json.loads(json.dumps(report)), grid_png=None) == render_report(report, grid_png=None)


def test_tile_text_at_epsilon_one_half_and_ten():
    assert (
        "Promise epsilon 0.50, delta 1e-5 target 0.50; a guess is right at most 62.25%, a coin 50% "
        "Usefulness 94.3% accuracy public data only 61.2%; private data, without privacy 99.3%"
    ) in re.sub(r"\s+", " ", Page(render_report(make_report(0.5), grid_png=None)).text)
    text = Page(render_report(make_report(10.0), grid_png=None)).text
    assert "epsilon 10.00, delta 1e-5" in text
    assert "strong" not in text.lower()
    assert "The formal limit is loose" in text


@pytest.mark.parametrize("word", ["anonymous", "GDPR", "zero risk", "strong privacy", "safe to share"])
@pytest.mark.parametrize("name", REPORTS)
def test_words_that_overstate_are_not_used(name, word):
    assert word.lower() not in render_report(REPORTS[name], grid_png=None).lower()


def test_missing_parts_say_why():
    text = Page(render_report(REPORTS["empty"], grid_png=None)).text
    assert text.count("Not measured: not asked for in this run") > 10
    assert "No picture was given" in text


def test_shared_page_shows_no_private_figure():
    html = render_report(without_private_values(make_report()), grid_png=None)
    for figure in ("94.3%", "61.2%", "99.3%", "12.34", "54,321", "5.312", "50.7%"):
        assert figure not in html


def test_shared_page_shows_no_wall_time_and_the_internal_one_does():
    report = make_report(stage_seconds={"ingest private": 4.2, "train": 1810.0})
    internal = Page(render_report(report, grid_png=None)).text
    shared = Page(render_report(without_private_values(report), grid_png=None)).text
    for words in ("ingest private", "30 min 10 s", "4.2 s", "All stages", "stage_seconds"):
        assert words in internal
        assert words not in shared


def test_grid_is_embedded_whole():
    html = render_report(make_report(), grid_png=b"\x89PNG data")
    assert base64.b64encode(b"\x89PNG data").decode() in html


def test_dots_stand_where_the_axis_puts_them():
    page = Page(render_report(make_report(), grid_png=None))
    ticks = [float(a["x1"]) for t, a in page.tags if t == "line" and a.get("class") == "axis"]
    dots = [float(a["cx"]) for t, a in page.tags if t == "circle"]
    low, high = 215.0, 515.0
    assert (min(ticks), max(ticks)) == (low, high)
    assert dots[0] == pytest.approx(low + (0.943 - 0.6) / 0.4 * 300, abs=0.1)
    assert dots[1] == pytest.approx(low + 0.507 * 300, abs=0.1)


@pytest.mark.parametrize("values", [[0.612, 0.994], [0.5], [1.0, 1.0], [0.0], [0.0, 1.0], [0.05, 0.98], []])
def test_axis_covers_the_values_with_few_round_ticks(values):
    axis = plot_axis(values)
    assert 0 <= axis["low"] < axis["high"] <= 1
    assert all(axis["low"] <= value <= axis["high"] for value in values)
    assert 2 <= len(axis["ticks"]) <= 7


def test_incomplete_reports_and_huge_grids_are_refused():
    with pytest.raises(InputError, match="lacks"):
        render_report({"title": "x"}, grid_png=None)
    with pytest.raises(InputError, match="smaller image grid"):
        render_report(make_report(), grid_png=bytes(2_000_000))


def test_the_page_shows_the_statement_its_limits_and_what_it_leaves_out():
    page = render_report(make_report(), grid_png=None)
    for text in ("Epsilon without credit for sampling", "Known limits of the guarantee", "Theoretical", "Negligible"):
        assert text in page
    assert STATEMENT["ledger_head"] in page
    assert "how long steps took" in page
    assert "Known limits" not in render_report(make_report(statement=None), grid_png=None)
