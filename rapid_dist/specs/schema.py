"""The JSON Schema of a spec, and what its nodes mean in words: types, ranges and the place of a setting."""

from __future__ import annotations

import functools
import json
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

Node = dict[str, Any]

_NOUNS = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "string": ("text", "texts"),
    "boolean": ("true or false", "truth values"),
    "object": ("a mapping", "mappings"),
}


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@functools.cache
def schema_of(cls: type) -> Node:
    """Returns the JSON Schema (draft 2020-12) of a spec class, with the meaning and the default of every setting."""
    return TypeAdapter(cls).json_schema(schema_generator=_Untitled)


def resolved(node: Node, root: Node) -> Node:
    """Returns the node that a reference points to, or the node itself; a nullable node gives what is not null."""
    if "$ref" in node:
        return root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    for member in node.get("anyOf", ()):
        if member != {"type": "null"} and "anyOf" in node and {"type": "null"} in node["anyOf"]:
            return resolved(member, root)
    return node


def is_nullable(node: Node) -> bool:
    """Returns whether null is among the values of a node."""
    return {"type": "null"} in node.get("anyOf", ())


def place(root: Node, loc: tuple[str | int, ...], path: str) -> tuple[str, Node]:
    """Returns the dotted name of a place in a spec and the node there, {} where the schema has none.

    loc: keys and positions from the root, as pydantic gives them. path: the name of the root, "" for a whole spec.
    """
    node = root
    for step in loc:
        inner = resolved(node, root)
        if inner.get("type") == "array":
            path, node = f"{path}[{step}]", inner.get("items", {})
            continue
        path = f"{path}.{step}" if path else str(step)
        values = inner.get("additionalProperties")
        node = inner.get("properties", {}).get(step, values if isinstance(values, dict) else {})
    return path, node


def value_words(node: Node, root: Node) -> str:
    """Returns what a value of the node is, such as "a whole number from 8 to 64, or null"."""
    inner = resolved(node, root)
    if "enum" in inner:
        words = f"one of {', '.join(sorted(str(v) for v in inner['enum']))}"
    elif "const" in inner:
        words = f"{inner['const']} only"
    elif inner.get("type") == "array":
        items = resolved(inner.get("items", {}), root)
        words = f"a list of {_NOUNS[items['type']][1]}" if "type" in items else "a list"
    else:
        noun = _NOUNS[inner["type"]][0] if inner.get("type") in _NOUNS else "a value"
        words = f"{noun} {range_words(inner)}".rstrip()
        words += f" and a multiple of {inner['multipleOf']}" if "multipleOf" in inner else ""
    return f"{words}, or null" if is_nullable(node) else words


def range_words(node: Node) -> str:
    """Returns the bounds of a number as words that follow its noun, or "" where it has none."""
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    least, most = node.get("minimum"), node.get("maximum")
    if above is not None and below is not None:
        return f"between {above:g} and {below:g}, both excluded"
    if least is not None and most is not None:
        return f"from {least:g} to {most:g}"
    words = []
    if above is not None:
        words.append(f"above {above:g}")
    if least is not None:
        words.append(f"of {least:g} or more")
    if below is not None:
        words.append(f"below {below:g}")
    if most is not None:
        words.append(f"at most {most:g}")
    return " and ".join(words)


def default_words(node: Node) -> str:
    """Returns the default of a node as YAML would take it, or "required"."""
    return json.dumps(node["default"]) if "default" in node else "required"
