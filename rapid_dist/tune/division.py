"""Who is who in a study: public images that know, that pretend to be private, or that judge; a secret subset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rapid_dist.errors import SpecError
from rapid_dist.privacy.inclusion import subset_mask
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import PaidSteps
from rapid_dist.seeding import draw_uniforms
from rapid_dist.specs.study import ProxySpec
from rapid_dist.storage.tables import ImageTable


@dataclass(frozen=True, kw_only=True)
class Division:
    """private_classes: public classes that pretend to be private; None divides images without labels by halves."""

    private_classes: tuple[int, ...] | None
    test_fraction: float

    @property
    def num_classes(self) -> int:
        """Classes that the pretend-private images have; 0 without labels."""
        return len(self.private_classes or ())


def divide(num_labels: int, proxy: ProxySpec) -> Division:
    """The division of a public data set with this many classes: by default the upper half pretends.

    Raises SpecError when no class would be left on one side.
    """
    chosen = proxy.private_classes
    if num_labels < 2:
        if chosen is not None:
            raise SpecError(
                f"tune.proxy.private_classes is {list(chosen)} but the public images have {num_labels} classes; leave "
                "it out, and half of the images pretend to be private"
            )
        return Division(private_classes=None, test_fraction=proxy.test_fraction)
    chosen = tuple(range(num_labels // 2, num_labels)) if chosen is None else tuple(sorted(set(chosen)))
    if not chosen or min(chosen) < 0 or max(chosen) >= num_labels or len(chosen) == num_labels:
        raise SpecError(
            f"tune.proxy.private_classes is {list(chosen)}; expected some, but not all, of the public classes 0 to "
            f"{num_labels - 1}"
        )
    return Division(private_classes=chosen, test_fraction=proxy.test_fraction)


def divide_table(table: ImageTable, division: Division, seed: int) -> dict[str, ImageTable]:
    """knowledge, private and test of one table; pretend-private labels count from 0. By class and id alone."""
    if division.private_classes is None:
        pretends = draw_uniforms(seed, "pretend-private", table.example_id, 1)[:, 0] < 0.5
        label = table.label
    else:
        classes = np.asarray(division.private_classes)
        pretends = np.isin(table.label, classes)
        label = np.searchsorted(classes, table.label).astype(np.int32)
    is_test = draw_uniforms(seed, "held-out", table.example_id, 1)[:, 0] < division.test_fraction
    return {
        "knowledge": _rows(table, ~pretends, table.label),
        "private": _rows(table, pretends & ~is_test, label),
        "test": _rows(table, pretends & is_test, label),
    }


def draw_subset(tables: Iterable[ImageTable], paid: PaidSteps) -> Iterator[ImageTable]:
    """The records of each table that a fresh secret key puts into the subset that was paid for."""
    key = RunKey.fresh()
    for table in tables:
        is_in = subset_mask(key, table.example_id, paid=paid)
        chosen = _rows(table, is_in, table.label)
        if len(chosen):
            yield chosen


def _rows(table: ImageTable, mask: np.ndarray, label: np.ndarray) -> ImageTable:
    return ImageTable(example_id=table.example_id[mask], image=table.image[mask], label=label[mask])
