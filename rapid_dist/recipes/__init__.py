"""The recipes that ship with the package: a complete spec for each method, of the same parts, that lacks only paths.

>>> "statistics" in recipe_names()
True
>>> recipe_text("statistics").splitlines()[0].startswith("#")
True
"""

from __future__ import annotations

from importlib.resources import files

DEMO = "demo"


def recipe_names() -> tuple[str, ...]:
    """Returns the names of the recipes for data of one's own, in alphabetical order."""
    names = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml") and n != f"{DEMO}.yaml"))


def recipe_text(name: str) -> str:
    """Returns the YAML text of a recipe, `demo` among them; the name is one of recipe_names()."""
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
