"""What discovery hands to decoding: a source is a tuple of units, each small enough for one task's memory."""

from __future__ import annotations

import dataclasses

MAX_FILES_PER_UNIT = 2048
MAX_ROWS_PER_UNIT = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceUnit:
    """A run of consecutive examples that one task decodes; plain types only, so it pickles anywhere.

    index: place of the unit in its source.
    kind: "class_folders", "flat_folder", "parquet" or "npz".
    uri: the folder (folder kinds) or the file (parquet, npz).
    files: image paths relative to the folder; empty for parquet and npz.
    labels: one class index a file; None where the labels are inside the file, or there are none.
    class_names: what text labels are looked up in and integer labels are bounded by; None when unknown.
    row_group: the Parquet row group; row_start, row_stop: rows within the row group or the npz array.
    first_example_id, num_examples: the ids are first_example_id + 0 .. num_examples - 1, in order.
    """

    index: int
    kind: str
    uri: str
    files: tuple[str, ...] = ()
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None
    row_group: int | None = None
    row_start: int | None = None
    row_stop: int | None = None
    first_example_id: int
    num_examples: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A discovered data set. Example ids run over the units in order: a pure function of the listing.

    class_names is None when there are no labels, or integer labels that nobody has named.
    """

    uri: str
    kind: str
    class_names: tuple[str, ...] | None
    is_labelled: bool
    units: tuple[SourceUnit, ...]

    @property
    def num_examples(self) -> int:
        return sum(unit.num_examples for unit in self.units)


def number_units(units: list[SourceUnit]) -> tuple[SourceUnit, ...]:
    """Gives units in listing order their index and first example id, and drops the empty ones."""
    numbered: list[SourceUnit] = []
    next_id = 0
    for unit in units:
        if unit.num_examples:
            numbered.append(dataclasses.replace(unit, index=len(numbered), first_example_id=next_id))
            next_id += unit.num_examples
    return tuple(numbered)


def row_ranges(num_rows: int, max_rows: int = MAX_ROWS_PER_UNIT) -> list[tuple[int, int]]:
    """Cuts 0..num_rows into consecutive (start, stop) ranges of at most max_rows."""
    return [(start, min(start + max_rows, num_rows)) for start in range(0, num_rows, max_rows)]
