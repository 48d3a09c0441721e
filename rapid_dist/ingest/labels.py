"""From labels as people store them, text or integers, to class indices."""

from __future__ import annotations

from collections.abc import Iterable

from rapid_dist.errors import InputError, SpecError

NO_LABEL = -1
_MAX_LABEL = 2**31 - 1


def check_class_names(class_names: tuple[str, ...] | None) -> None:
    """Raises SpecError when class names are given but empty, repeated or not text."""
    if class_names is None:
        return
    if not class_names or not all(isinstance(name, str) and name for name in class_names):
        raise SpecError(f"data.class_names is {class_names!r}; expected one or more non-empty names")
    if len(set(class_names)) != len(class_names):
        repeated = sorted({name for name in class_names if class_names.count(name) > 1})
        raise SpecError(f"data.class_names repeats {repeated}; name every class once")


def class_indices(labels: Iterable[int | str | None], *, class_names: tuple[str, ...] | None, where: str) -> list[int]:
    """The class index of each label: text is looked up, integers are bounded by the class names.

    None and -1 both mean that an example has no label and become -1.

    Raises InputError on a label outside the classes; `where` says in which file.
    """
    index_of = {name: index for index, name in enumerate(class_names or ())}
    num_classes = len(class_names) if class_names else _MAX_LABEL
    return [_class_index(label, index_of, num_classes, where) for label in labels]


def _class_index(label: int | str | None, index_of: dict[str, int], num_classes: int, where: str) -> int:
    if label is None:
        return NO_LABEL
    if isinstance(label, str):
        if label not in index_of:
            raise InputError(f"{where} has label {label!r}; expected one of {sorted(index_of)}; see data.class_names")
        return index_of[label]
    if not NO_LABEL <= label < num_classes:
        raise InputError(
            f"{where} has label {label}; expected 0 to {num_classes - 1}, or -1 for none; see data.class_names"
        )
    return int(label)


def unstated_classes(where: str, folders: list[str]) -> InputError:
    """The error for private class folders without stated names: numbered by who is there, a label tells of others."""
    return InputError(
        f"{where} is private and has class folders but no class names are stated; numbered by the folders that exist, "
        f"the labels of all records would change with the last record of a class. Add the line  class_names: "
        f"[{', '.join(folders)}]  to data: (or --class-names {','.join(folders)}), in the order you want"
    )


def refuse_unnamed_text(where: str) -> InputError:
    """The error for text labels without class names: their order decides the indices, so it must be given."""
    return InputError(
        f"{where} has text labels but no class names; list them in data.class_names, in the order you want"
    )
