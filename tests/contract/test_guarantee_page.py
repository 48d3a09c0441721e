"""The page on the guarantee names every function that reads image records, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.contract.sources import FILES, PACKAGE, name_of, tree_of

PAGE = PACKAGE / "privacy" / "README.md"
# What opens records, or takes a record's part of a sum.
READERS = {
    "clipped_sum",
    "count_right",
    "count_votes",
    "decode_unit",
    "find_images",
    "iterate_images",
    "iterate_labels",
    "local_statistics",
    "load_private_inputs",
    "make_private_batch",
    "read_all_images",
    "read_folder_unit",
    "read_idx_unit",
    "read_images",
    "read_npz_unit",
    "read_parquet_unit",
    "shape_of_first",
    "sum_statistics",
}
ROW = re.compile(r"^\| `([^`]+\.py)` `([^`]+)` \| (as asked|public|private|made up) \|")


def reading_functions(tree: ast.AST, prefix: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted names of the functions in whose own body a reader is named."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from reading_functions(node, (*prefix, node.name))
            continue
        if getattr(node, "id", getattr(node, "attr", None)) in READERS:
            yield ".".join(prefix) or "<module>"
        yield from reading_functions(node, prefix)


def on_the_page() -> dict[tuple[str, str], str]:
    section = PAGE.read_text().split("## Functions that read records")[1].split("\n## ")[0]
    rows = [row.groups() for line in section.splitlines() if (row := ROW.match(line))]
    found = {(file, name): kind for file, name, kind in rows}
    assert len(found) == len(rows), "a function is on the page twice"
    return found


def in_the_code() -> set[tuple[str, str]]:
    return {(name_of(file), name) for file in FILES for name in reading_functions(tree_of(file))}


def test_every_function_that_reads_records_is_on_the_page_and_no_other():
    assert on_the_page().keys() == in_the_code()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(store):\n    return read_all_images(store)", ["f"]),
        (
            "class A:\n    def f(self):\n        def g():\n            return [t for t in images.iterate_images(s)]",
            ["A.f.g"],
        ),
        ("READER = {'a': read_npz_unit}", ["<module>"]),
        ("async def f(step):\n    step.clipped_sum(model, batch)", ["f"]),
        ("def f(store):\n    return read_everything(store)", []),
    ],
)
def test_a_new_reader_would_be_noticed(code, found):
    assert list(reading_functions(ast.parse(code))) == found


def test_functions_that_are_said_to_read_public_records_open_public_artefacts_only():
    """By what the file itself says: a public reader's file asks for class public, or is handed opened public parts."""
    handed_over = {"knowledge_base/tasks.py", "tune/data.py", "knowledge_base/picture.py"}
    for (file, _), kind in on_the_page().items():
        if kind == "public" and file not in handed_over:
            assert 'privacy_classes=("public",)' in (PACKAGE / file).read_text(), file
