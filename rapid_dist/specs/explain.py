"""Every setting with its type, range, default and meaning, as JSON Schema for programs and as text for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from rapid_dist.errors import SpecError
from rapid_dist.specs.parsing import nearest_name
from rapid_dist.specs.run import RunSpec
from rapid_dist.specs.schema import Node, default_words, resolved, schema_of, value_words
from rapid_dist.specs.study import TuneSpec

WIDTH = 100  # columns
_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def json_schema(*, study: bool = False) -> Node:
    """Returns the JSON Schema of a run's spec file, or of a study's, which has a tune section as well."""
    run = schema_of(RunSpec)
    if not study:
        return {"$schema": _SCHEMA, **run}
    tune = dict(schema_of(TuneSpec))
    defs = {**run["$defs"], **tune.pop("$defs"), "TuneSpec": tune}
    return {
        "$schema": _SCHEMA,
        **run,
        "title": "StudySpec",
        "description": "A base run and the search around it.",
        "$defs": defs,
        "properties": {**run["properties"], "tune": {"$ref": "#/$defs/TuneSpec"}},
        "required": [*run["required"], "tune"],
    }


def explain(name: str) -> str:
    """Returns what a setting is, such as privacy.sample_rate, or what a section holds, such as privacy.

    Raises SpecError for an unknown name, with the nearest known one.
    """
    root = json_schema(study=True)
    node = _find(name, root)
    if "properties" in resolved(node, root):
        return "\n".join(_section_lines(name, node, root, whole=True))
    rows = {"value": value_words(node, root), "default": default_words(node), "meaning": node["description"]}
    lines = [name, *(_wrapped(f"  {label:<9}{words}", " " * 11) for label, words in rows.items())]
    return "\n".join([*lines, _wrapped(f"  {'set by':<9}--set {name}=..., or in the spec file", " " * 11)])


def list_settings(*, study: bool = False) -> str:
    """Returns all settings of a run, or of a study, section by section, in at most 100 columns."""
    root = json_schema(study=study)
    alone = {"properties": {k: n for k, n in root["properties"].items() if not _is_section(n, root)}}
    lines = [*_setting_lines(alone, root), ""]
    for name, node in root["properties"].items():
        if _is_section(node, root):
            lines += [*_section_lines(name, node, root, whole=False), ""]
    return "\n".join(lines).rstrip()


def plain_settings(name: str | None = None, *, study: bool = False) -> dict[str, Any]:
    """Returns {dotted name: value, default (absent where one is required) and meaning} of the settings.

    name: one setting, or the section whose settings are wanted; None is all of a run, or of a study. Raises SpecError.
    """
    root = json_schema(study=study or name is not None)
    found: dict[str, Any] = {}
    todo = [(name or "", root if name is None else _find(name, root))]
    while todo:
        path, node = todo.pop(0)
        if _is_section(node, root):
            inner = resolved(node, root)["properties"]
            todo += [(f"{path}.{key}" if path else key, below) for key, below in inner.items()]
            continue
        default = {"default": node["default"]} if "default" in node else {}
        found[path] = {"value": value_words(node, root), **default, "meaning": node["description"]}
    return found


def _find(name: str, root: Node) -> Node:
    node = root
    for key in name.split("."):
        known = resolved(node, root).get("properties", {})
        if key not in known:
            raise SpecError(f"unknown setting {name!r}: {_known(key, known, name)}")
        node = known[key]
    return node


def _known(key: str, known: Node, name: str) -> str:
    return nearest_name(key, known) if known else f"{name.rsplit('.', 1)[0]} is a setting, not a section"


def _is_section(node: Node, root: Node) -> bool:
    return "properties" in resolved(node, root)


def _section_lines(name: str, node: Node, root: Node, *, whole: bool) -> Iterator[str]:
    """Yields the section's name, its meaning (the whole of it, or its first paragraph) and its settings."""
    section = resolved(node, root)
    first, *more = section.get("description", "").split("\n\n")
    yield _wrapped(f"{name}: {first}", "  ")
    for paragraph in more if whole else ():
        yield _wrapped(f"  {paragraph}", "  ")
    yield ""
    yield from _setting_lines(section, root)
    for key, inner in section["properties"].items():
        if _is_section(inner, root):
            yield ""
            yield from _section_lines(f"{name}.{key}", inner, root, whole=whole)


def _setting_lines(section: Node, root: Node) -> Iterator[str]:
    """Yields two lines a setting: `name: default` as in a spec file with what it may be, and its meaning."""
    for key, node in section["properties"].items():
        if not _is_section(node, root):
            default = default_words(node) if "default" in node else "(required)"
            yield _wrapped(f"  {f'{key}: {default}':<34} {value_words(node, root)}", " " * 37)
            yield _wrapped(f"      {node['description']}", " " * 6)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
