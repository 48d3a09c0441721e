"""The command that prints the pages that are installed with the package."""

from __future__ import annotations

import json
import re

import click

from rapid_dist.cli.edge import json_option, translated

MAP = "map"  # the topic of the page at the package's root; every other topic is the name of its room
PAGE = "README.md"


def read_pages() -> dict[str, str]:
    """Returns {topic: text of its page} for every page of the installed package, the map first.

    Example:
        >>> "privacy" in read_pages()
        True
    """
    from importlib.resources import files

    root = files("rapid_dist")
    rooms = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    pages = {MAP: root / PAGE, **{room.name: room / PAGE for room in rooms}}
    return {topic: page.read_text(encoding="utf-8") for topic, page in pages.items() if page.is_file()}


def first_sentence(page: str) -> str:
    """Returns the first sentence below the title of a page, on one line and without marks of code."""
    paragraphs = [" ".join(block.split()) for block in page.split("\n\n")]
    text = next((block for block in paragraphs if block and not block.startswith("#")), "")
    return re.split(r"(?<=[.!?]) ", text, maxsplit=1)[0].replace("`", "")


@click.command()
@click.argument("topic", metavar="[TOPIC]", required=False)
@json_option
@translated
def docs(topic: str | None, as_json: bool) -> None:
    """Print the page about TOPIC, or list the topics with the first sentence of each.

    A topic is the name of a room of the package, such as privacy; map is the page about the rooms and how a run works.
    """
    pages = read_pages()
    if topic is None:
        sentences = {name: first_sentence(page) for name, page in pages.items()}
        if as_json:
            click.echo(json.dumps({"topics": sentences}))
            return
        width = max(map(len, sentences), default=0)
        for name, sentence in sentences.items():
            click.echo(f"{name:<{width}}  {sentence}")
        return
    name = topic.replace("-", "_")
    if name not in pages:
        raise _unknown(topic, list(pages))
    click.echo(json.dumps({"topic": name, "text": pages[name]}) if as_json else pages[name].rstrip())


def _unknown(topic: str, known: list[str]) -> Exception:
    import difflib

    from rapid_dist.errors import InputError

    close = difflib.get_close_matches(topic, known, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return InputError(f"there is no page about {topic!r}{meant} (known topics: {', '.join(known)})")
