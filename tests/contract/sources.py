"""The package's files as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import rapid_dist

PACKAGE = Path(rapid_dist.__file__).parent
FILES = tuple(sorted(PACKAGE.rglob("*.py")))
RAY_ROOMS = ("runtime", "tune")  # the only folders whose files may import ray


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all modules imported at any depth, in functions too, and through importlib by a literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(("import_module", "__import__")):
            yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant))


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute, starting with "?" where the beginning is another expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def violations(files: Iterable[Path], check: Callable[[ast.Module], list[str]]) -> dict[str, list[str]]:
    """File name -> what check found in it, for the files in which it found something."""
    found = {name_of(file): check(tree_of(file)) for file in files}
    return {name: what for name, what in found.items() if what}
