"""`rapid-dist docs`: lists the pages of the installed package and prints one."""

from __future__ import annotations

import json

import pytest

from rapid_dist.cli.docs import MAP, first_sentence, read_pages
from tests.contract.sources import PACKAGE

PAGES = {
    MAP if path.parent == PACKAGE else path.parent.name: path.read_text() for path in sorted(PACKAGE.rglob("README.md"))
}


def test_without_a_topic_every_page_is_listed_with_its_first_sentence(call):
    lines = call("docs").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(read_pages())
    for line in lines:
        topic, sentence = line.split(maxsplit=1)
        assert sentence == first_sentence(PAGES[topic])
        assert sentence.endswith(".")


def test_the_topics_are_the_rooms_that_have_a_page_and_the_map():
    assert read_pages() == PAGES
    assert set(PAGES) >= {MAP, "privacy", "audit", "knowledge_base", "tune"}


@pytest.mark.parametrize("topic", sorted(PAGES))
def test_a_topic_prints_its_page(call, topic):
    assert call("docs", topic).stdout.strip() == PAGES[topic].strip()
    assert json.loads(call("docs", topic, "--json").stdout) == {"topic": topic, "text": PAGES[topic]}


def test_a_hyphen_stands_for_an_underscore(call):
    assert call("docs", "knowledge-base").stdout == call("docs", "knowledge_base").stdout


def test_the_list_as_json(call):
    topics = json.loads(call("docs", "--json").stdout)["topics"]
    assert topics == {topic: first_sentence(text) for topic, text in read_pages().items()}


@pytest.mark.parametrize(
    ("topic", "nearest"), [("privcy", "privacy"), ("tuning", "tune"), ("knowledgebase", "knowledge_base")]
)
def test_an_unknown_topic_is_refused_with_the_nearest_name(refused, topic, nearest):
    line = refused("docs", topic)
    assert repr(topic) in line
    assert repr(nearest) in line


def test_a_topic_that_is_near_none_is_refused_with_all_names(refused):
    line = refused("docs", "zzzz")
    assert all(topic in line for topic in PAGES)


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("# A title\n\nOne sentence\nover two lines. Another.\n", "One sentence over two lines."),
        ("# A title\n\n## A section\n\n`rapid-dist tune` searches.\n", "rapid-dist tune searches."),
        ("# A title\n\nA spec in `spec.yaml` is read. More.\n", "A spec in spec.yaml is read."),
        ("# Only a title\n", ""),
    ],
)
def test_the_first_sentence_of_a_page(page, sentence):
    assert first_sentence(page) == sentence
