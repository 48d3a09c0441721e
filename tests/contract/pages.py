"""The pages of this repository, and what is in them: sections, links, tables, and lines of the command line."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tests.contract.sources import PACKAGE, dotted

ROOT = PACKAGE.parent
FOLDERS = ("rapid_dist", "jobs", "cluster", "k8s", "tests")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"\s#\s.*$")
FIGURE = re.compile(r"\**[\d.,]*\d( to [\d.,]+)?( ?(%|s|ms|MiB))?\**( \(.*\))?")


def find_pages(root: Path) -> list[Path]:
    """Returns every README.md of the repository and the page on security, but not the copies a build leaves behind."""
    found = [page for folder in FOLDERS for page in sorted((root / folder).rglob("README.md"))]
    return [root / "README.md", *found, root / ".github" / "SECURITY.md"]


def fenced_blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in languages]


def unfenced(text: str) -> str:
    return FENCE.sub("", text)


def inline_code(text: str) -> list[str]:
    """Everything between single backticks outside fences; code may run over the end of a line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", unfenced(text))]


def fenced_commands(text: str) -> list[list[str]]:
    """The words after `rapid-dist` of every such command in fenced shell blocks, continued lines joined."""
    found = []
    for block in fenced_blocks(text, "bash", "sh", ""):
        for line in block.replace("\\\n", " ").splitlines():
            found += _commands(COMMENT.sub("", line))
    return found


def inline_commands(text: str) -> list[list[str]]:
    """The words after `rapid-dist` of every such command in inline code; brackets and dots are left out."""
    plain = (re.sub(r"\.\.\.|[\[\]]", " ", code) for code in inline_code(text))
    return [words for code in plain for words in _commands(code)]


def _commands(line: str) -> Iterator[list[str]]:
    if "rapid-dist" not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    tokens = list(lexer)
    ends = [i for i, token in enumerate(tokens) if token in ("&&", "||", ";", "|", "&")]
    for start, end in zip([-1, *ends], [*ends, len(tokens)], strict=True):
        words = tokens[start + 1 : end]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words and words[0].split("/")[-1] == "rapid-dist":
            yield words[1:]


def parse_command(group: click.Group, words: list[str], *, is_complete: bool = True) -> str:
    """Returns the command's full name. Raises click.ClickException for a name or option that does not exist.

    Values are not converted, so that they may be placeholders.

    Args:
        group: the command line.
        words: what follows the program's name.
        is_complete: whether required options and arguments must be there, and no others may be.
    """
    command: click.Command = group
    context = click.Context(group, info_name="rapid-dist")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        context, command = click.Context(found, info_name=name, parent=context), found
    context.resilient_parsing = not is_complete
    values, extra, _ = command.make_parser(context).parse_args(rest)
    if is_complete:
        if extra:
            raise click.UsageError(f"unexpected words {extra}", context)
        missing = [p.name for p in command.params if p.required and not _is_given(values.get(p.name))]
        if missing:
            raise click.UsageError(f"missing {missing}", context)
    return context.command_path


def _is_given(value: object) -> bool:
    """Whether a parser found a word, or at least one for a parameter that takes several."""
    return isinstance(value, str) or (isinstance(value, tuple | list) and len(value) > 0)


def check_calls(code: str, known: Mapping[str, Any]) -> int:
    """Looks up every name of a known value in Python code and binds the arguments of its calls; runs nothing.

    Args:
        code: Lines of Python.
        known: Name in the code -> the module it is, or the class that it is one of.

    Returns:
        How many calls were bound.

    Raises:
        AttributeError: A name does not exist.
        TypeError: A call has arguments that the function does not take.
    """
    bound = 0
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node).split(".")[0] in known:
            _resolve(dotted(node), known)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or dotted(node.func).split(".")[0] not in known:
            continue
        root, *path = dotted(node.func).split(".")
        value = _resolve(dotted(node.func), known) if path else known[root].__call__
        is_method = inspect.isclass(known[root])
        positional = [None] * (len(node.args) + is_method)
        inspect.signature(value).bind(*positional, **{str(k.arg): None for k in node.keywords})
        bound += 1
    return bound


def _resolve(name: str, known: Mapping[str, Any]) -> Any:
    root, *path = name.split(".")
    value = known[root]
    for part in path:
        value = getattr(value, part)
    return value


def relative_links(text: str) -> list[tuple[str, str]]:
    """(path, anchor) of every link and picture that does not lead to another site; either may be empty."""
    targets = re.findall(r"\]\(([^)\s]+)\)", unfenced(text))
    return [tuple((target + "#").split("#")[:2]) for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", unfenced(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sections(text: str) -> dict[str, str]:
    """Heading -> what is below it, until the next heading of any depth; comments in fences are no headings."""
    blank = FENCE.sub(lambda fence: re.sub(r"^#", " #", fence.group(), flags=re.MULTILINE), text)
    parts = re.split(r"^#+ (.+)$", blank, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def has_figures(section: str) -> bool:
    """Whether it has a table of measurements: at least two cells that are nothing but a number and its unit."""
    rows = [line.strip().strip("|").split("|") for line in unfenced(section).splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in row]
    return sum(bool(FIGURE.fullmatch(cell)) for cell in cells) >= 2


def names_a_command(section: str) -> bool:
    """Whether a section names a command that a reader can run."""
    starts = ("rapid-dist ", "pytest ", "python -m ", ".ci/run")
    fenced = "\n".join(fenced_blocks(section, "bash"))
    return "rapid-dist " in fenced or any(code.startswith(starts) for code in inline_code(section))
