"""The pages describe what is there: commands, options, links, files, and a command for every table of figures."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

import rapid_dist
from rapid_dist.cli import main
from tests.contract import pages
from tests.contract.pages import ROOT

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in pages.find_pages(ROOT)}
MAX_README_BYTES = 7000


def test_the_root_page_fits_on_one_screen():
    assert len((ROOT / "README.md").read_bytes()) <= MAX_README_BYTES


def command_names(group: click.Group, *words: str) -> set[str]:
    """Full names of all commands and groups below group."""
    names = set()
    for name, command in group.commands.items():
        names.add(" ".join((*words, name)))
        if isinstance(command, click.Group):
            names |= command_names(command, *words, name)
    return names


@pytest.mark.parametrize("name", sorted(command_names(main)))
def test_every_command_is_on_some_page(name):
    pattern = re.compile(rf"rapid-dist {name.replace(' ', chr(92) + 's+')}(?![\w-])")
    assert [page for page, text in PAGES.items() if pattern.search(text)]


FENCED = [(page, words) for page, text in PAGES.items() for words in pages.fenced_commands(text)]
INLINE = [(page, words) for page, text in PAGES.items() for words in pages.inline_commands(text) if words]


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(*case, id=f"{case[0]}: {' '.join(case[1])}") for case in FENCED]
)
def test_a_fenced_command_parses(page, words):
    assert pages.parse_command(main, words)


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(*case, id=f"{case[0]}: {' '.join(case[1])}") for case in INLINE]
)
def test_a_command_in_a_sentence_has_names_that_exist(page, words):
    assert pages.parse_command(main, words, is_complete=False)


@pytest.mark.parametrize(
    "line",
    [
        "rapid-dist rum spec.yaml --out run",
        "rapid-dist run spec.yaml --output run",
        "rapid-dist run spec.yaml",
        "rapid-dist run --out run",
        "rapid-dist run spec.yaml another.yaml --out run",
        "rapid-dist kb verfy BASE",
        "rapid-dist run spec.yaml --out",
    ],
)
def test_a_command_that_does_not_exist_would_be_noticed(line):
    (words,) = pages.fenced_commands(f"```bash\n{line}   # a comment\n```\n")
    with pytest.raises(click.ClickException):
        pages.parse_command(main, words)


def test_commands_are_found_where_they_stand():
    fence = "```bash\nA=1 .venv/bin/rapid-dist demo && rapid-dist run S \\\n  --out O  # why\n```\n"
    text = fence + "`rapid-dist kb\nstats` `B=2 rapid-dist` `python x.py`"
    assert pages.fenced_commands(text) == [["demo"], ["run", "S", "--out", "O"]]
    assert pages.inline_commands(text) == [["kb", "stats"], []]


PYTHON = [(page, code) for page, text in PAGES.items() for code in pages.fenced_blocks(text, "python")]
KNOWN = {"rd": rapid_dist, "run": rapid_dist.Run}


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_python_on_a_page_calls_what_exists_with_arguments_it_takes(page, code):
    assert pages.check_calls(code, KNOWN)


def test_the_root_page_has_five_lines_of_python():
    (code,) = [code for page, code in PYTHON if page == "README.md"]
    assert len([line for line in code.splitlines() if line]) == 5


@pytest.mark.parametrize(
    "code", ["rd.Rum('spec.yaml')", "rd.Run('s', out='o', override={})", "run.plans()", "run.plan(3)"]
)
def test_python_that_does_not_exist_would_be_noticed(code):
    with pytest.raises((AttributeError, TypeError)):
        pages.check_calls(code, KNOWN)


@pytest.mark.parametrize(
    ("marker", "end"), [("tests", ".venv/bin/python -m pytest -q"), ("demo", ".venv/bin/rapid-dist demo")]
)
def test_a_marked_command_is_found_as_the_ci_finds_it(marker, end):
    (line,) = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("command=")]
    script = f'{line.replace("<!-- tests -->", f"<!-- {marker} -->")}\nprintf "%s" "$command"'
    answer = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(answer.stdout.splitlines()) == 1
    assert answer.stdout.startswith("python3.11 -m venv .venv && ")
    assert answer.stdout.endswith(f" && {end}")


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for path, anchor in pages.relative_links(PAGES[page]):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.is_file(), path
        assert not anchor or anchor in pages.anchors(target.read_text()), anchor


NAMED_FILE = re.compile(r"(?<![\w/.])(?:rapid_dist|tests|jobs|cluster|k8s)/[\w/.-]+\.(?:py|md|png)")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    missing = [name for name in NAMED_FILE.findall(PAGES[page]) if not Path(ROOT / name).is_file()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_a_table_of_figures_names_its_command(page):
    tables = {name: text for name, text in pages.sections(PAGES[page]).items() if pages.has_figures(text)}
    assert [name for name, text in tables.items() if not pages.names_a_command(text)] == []


def test_tables_of_figures_are_recognised():
    found = {page for page, text in PAGES.items() if any(map(pages.has_figures, pages.sections(text).values()))}
    measured = ("audit", "knowledge_base", "privacy")
    assert found >= {f"rapid_dist/{room}/README.md" for room in measured}
    assert found >= {"README.md", "cluster/README.md", "jobs/specs/README.md", "tests/README.md"}
    assert not pages.has_figures("| a | what it is |\n|---|---|\n| alert | 98% is spent with less than 90% |\n")
    assert not pages.names_a_command("Measured on 2 cores.\n\n| a |\n|---|\n| 1.5 s |\n")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_one_title(page):
    titles = re.findall(r"^# .+$", pages.unfenced(PAGES[page]), re.MULTILINE)
    assert len(titles) == 1
    assert PAGES[page].startswith(titles[0])
