"""Spec files: YAML text in, a mapping of sections out, and nothing that YAML would silently change or drop."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from rapid_dist.errors import InputError, SpecError
from rapid_dist.recipes import recipe_names, recipe_text
from rapid_dist.specs.parsing import require
from rapid_dist.storage.store import Store

NAME_LISTS = ("class_names", "public_class_names")  # lists of text, in which YAML 1.1 sees numbers and truth values


def read_spec_file(path: str) -> str:
    """Returns the text of a spec file, local or on s3://, or of the recipe of that name where there is no such file.

    Raises InputError when it is not there, SpecError when it is not text, StorageError when it cannot be reached.
    """
    folder, _, name = path.rpartition("/")
    store = Store(folder or ("/" if path.startswith("/") else "."))
    if store.is_local and not Path(path).is_file():
        if path in recipe_names():
            return recipe_text(path)
        raise InputError(
            f"spec file {path} does not exist; give the path of a YAML spec, or one of the recipes "
            f"{', '.join(recipe_names())}"
        )
    data = store.read_bytes(name)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not text; expected a YAML spec") from None


def read_mapping(text: str, *, overrides: Iterable[str], source: str) -> dict[str, Any]:
    """Returns YAML text as a mapping with `section.key=value` overrides applied, not yet checked against any spec.

    Raises SpecError for what is no YAML or no mapping, for repeated keys, and for class names that YAML would change.
    """
    try:
        mapping = read_yaml(text, source)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" at line {place.line + 1}" if place else ""
        raise SpecError(f"{source} is not YAML{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(mapping, dict):
        raise SpecError(f"{source} holds {type(mapping).__name__}; expected a mapping with sections such as data:")
    for override in overrides:
        _apply(mapping, override)
    return mapping


def read_yaml(text: str, source: str, *, name: str = "") -> Any:
    """Returns what YAML text says. Raises SpecError for repeated keys and for class names that YAML would change.

    source: what messages call the text. name: the dotted name of the setting whose value the text is, "" for a file.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_node(root, name, source, set())
        return _constructed(loader, root, source)
    except RecursionError:
        raise SpecError(f"{source} is nested too deeply; expected sections of settings") from None
    finally:
        loader.dispose()


def _constructed(loader: yaml.SafeLoader, root: yaml.Node, source: str) -> Any:
    try:
        return loader.construct_document(root)
    except (ValueError, OverflowError) as error:  # such as the date 2026-13-01
        raise SpecError(f"{source} has a value that YAML cannot read: {error}; quote it if it is text") from None


def _check_node(node: yaml.Node, name: str, source: str, seen: set[int]) -> None:
    """Looks at a node and all below it; an anchor is looked at once, where it stands first."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        is_names = name.rsplit(".", 1)[-1] in NAME_LISTS
        for item in node.value:
            if is_names and isinstance(item, yaml.ScalarNode):
                _check_name(item, name, source)
            _check_node(item, name, source, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            full = f"{name}.{key.value}" if name else str(key.value)
            if isinstance(key, yaml.ScalarNode):  # a list or a mapping as a key is refused later
                key_read, line = repr(_read(key)), key.start_mark.line + 1  # 1 and 01 are one key
                if key_read in lines:
                    first = lines[key_read]
                    raise SpecError(f"{source} line {line} repeats {full!r}, first given at line {first}; keep one")
                lines[key_read] = line
            _check_node(value, full, source, seen)


def _read(node: yaml.ScalarNode) -> Any:
    """Returns what YAML makes of a scalar; `<<`, which merges a mapping, and unknown tags are what is written."""
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError):
        return node.value


def _check_name(node: yaml.ScalarNode, name: str, source: str) -> None:
    """Raises SpecError for an unquoted name that YAML reads as something else, such as 010, 1:30, no or a date."""
    read = _read(node)
    is_kept = isinstance(read, str | int | float) and not isinstance(read, bool) and str(read) == node.value
    if node.style is None and not is_kept:
        raise SpecError(
            f"{source} line {node.start_mark.line + 1} has the name {node.value} in {name}, which YAML reads as "
            f"{read!r}; quote it: '{node.value}'"
        )


def _has_comment(text: str) -> bool:
    """Returns whether YAML would take the end of a one-line plain value for a comment."""
    return re.match(r"""[^'"\[{\n]*\s#""", text) is not None


def _apply(mapping: dict[str, Any], override: str) -> None:
    name, separator, raw = override.partition("=")
    require(bool(separator) and bool(name), f"--set {override!r}; expected section.key=value")
    *sections, key = name.split(".")
    target = mapping
    for section in sections:
        if target.get(section) is None:  # absent, or left empty in the file
            target[section] = {}
        target = target[section]
        if not isinstance(target, dict):
            raise SpecError(f"--set {override!r}: {section!r} is no section; expected section.key=value")
    try:
        # A shell's argument ends where it ends: what YAML would drop as a comment, as in /data/set #2, is text.
        value = raw if _has_comment(raw) else read_yaml(raw, f"--set {override!r}", name=name)
        target[key] = value
    except yaml.YAMLError:
        raise SpecError(f"--set {override!r}: the value is not YAML") from None
