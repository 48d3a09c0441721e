"""What no file of the package may hold, and what every public name has."""

from __future__ import annotations

import ast

import pytest

from tests.contract.sources import FILES, dotted, imported_modules, name_of, tree_of, violations

MAX_LINES = 500
PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
# Global seeds, and loaders that run code from a file. Generator.manual_seed is called on a value, not on torch.
FORBIDDEN_CALLS = {
    "np.load",
    "np.random.seed",
    "numpy.load",
    "numpy.random.seed",
    "random.seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "torch.load",
    "torch.manual_seed",
    "torch.random.manual_seed",
    "torch.save",
    "torch.seed",
}


def test_a_file_fits_in_500_lines():
    lengths = {name_of(f): len(f.read_text().splitlines()) for f in FILES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def forbidden(tree: ast.AST) -> list[str]:
    """Global seeds and pickles, as the name that was used."""
    found = [m for m in imported_modules(tree) if m.split(".")[0] in PICKLERS]
    found += [m for m in imported_modules(tree) if m in FORBIDDEN_CALLS]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in FORBIDDEN_CALLS:
            found.append(dotted(node))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", True):
            found.append("allow_pickle")
    return found


def test_no_global_seed_and_no_pickle():
    assert violations(FILES, forbidden) == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "def f():\n    from torch import load",
        "torch.manual_seed(0)",
        "seed = torch.manual_seed",
        "np.random.seed(1)",
        "np.lib.format.read_array(f, allow_pickle=True)",
        "torch.load(path)",
    ],
)
def test_a_global_seed_or_pickle_would_be_noticed(line):
    assert forbidden(ast.parse(line))


def test_seeding_a_generator_of_its_own_is_allowed():
    assert forbidden(ast.parse("torch.Generator(device=device).manual_seed(seed)")) == []


def undocumented(tree: ast.Module) -> list[str]:
    """The module itself, when it has code, and its public functions and classes."""
    named = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    missing = [n.name for n in named if not n.name.startswith("_") and not ast.get_docstring(n)]
    return missing if not tree.body or ast.get_docstring(tree) else ["the module", *missing]


def test_modules_and_their_public_functions_and_classes_have_docstrings():
    assert violations(FILES, undocumented) == {}


def test_a_missing_docstring_would_be_noticed():
    assert undocumented(ast.parse("def f():\n    pass")) == ["the module", "f"]


def test_a_guarantee_is_written_as_its_own_sentence():
    """`Guarantee:` is spelt the same everywhere, once a docstring, with words after it, so that it can be found."""
    promised = 0
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and "Guarantee" in (ast.get_docstring(node) or ""):
                (sentence,) = ast.get_docstring(node).split("Guarantee:")[1:]
                assert len(sentence.split()) >= 5, f"{name_of(path)}: {node.name}"
                promised += 1
    assert promised
