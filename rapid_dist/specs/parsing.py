"""From a mapping to a frozen spec, by pydantic; its errors become one line: what was got, expected, what to do."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from annotated_types import Gt
from pydantic import AllowInfNan, BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from rapid_dist.errors import SpecError
from rapid_dist.specs.schema import Node, place, schema_of, value_words

Value = TypeVar("Value")

_CONFIG = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
_UNKNOWN = ("unexpected_keyword_argument", "invalid_key")


def _as_float(value: Any) -> Any:
    """Returns whole numbers, and text that is a number, as float: YAML 1.1 reads 1e-5 (no dot) as text."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return value
    return value


def _as_tuple(value: Any) -> Any:
    """Returns a list as a tuple; a set has no order and text is no list, so they stay what they are."""
    return tuple(value) if isinstance(value, list) else value


def _as_section(value: Any) -> Any:
    """Returns a section that the file leaves empty as one without settings, so that it has its defaults."""
    return {} if value is None else value


# Finite, and no bool. The bound stands before the conversion, or the JSON Schema of an optional setting lacks it.
Number = Annotated[float, Strict(), AllowInfNan(False), BeforeValidator(_as_float)]
PositiveNumber = Annotated[float, Strict(), AllowInfNan(False), Gt(0), BeforeValidator(_as_float)]
Count = Annotated[int, Strict(), Gt(0)]
ListOf = Annotated[tuple[Value, ...], Strict(), BeforeValidator(_as_tuple)]
Section = Annotated[Value, BeforeValidator(_as_section)]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings(path: str) -> Callable[[type[Value]], type[Value]]:
    """Makes a class a frozen, keyword-only dataclass whose values pydantic checks however it is made.

    path: the name of the section in a spec file, "" for a whole file; messages begin with it.
    Made directly, by dataclasses.replace or by from_mapping, a wrong value raises SpecError.
    """

    def decorate(cls: type[Value]) -> type[Value]:
        made = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)
        checked_init = made.__init__

        @functools.wraps(checked_init)
        def __init__(self: Any, *args: Any, **values: Any) -> None:
            try:
                checked_init(self, *args, **values)
            except ValidationError as error:
                raise SpecError(_one_line(error, schema_of(made), path)) from None

        made.__init__ = __init__
        return made

    return decorate


def from_mapping(cls: type[Value], mapping: Any, path: str) -> Value:
    """Builds a spec from a mapping of its settings; path is its name in the file, "" for the whole of it.

    Raises SpecError for unknown keys, wrong types, values out of range and missing values.
    """
    return _validated(TypeAdapter(cls), mapping, schema_of(cls), path)


def check_value(cls: type, name: str, value: Any, path: str) -> None:
    """Raises SpecError unless the value is one that the named setting of a spec class can have by itself."""
    field = cls.__pydantic_fields__[name]
    adapter = TypeAdapter(Annotated[(field.annotation, name, *field.metadata)], config=_CONFIG)
    root = schema_of(cls)
    _validated(adapter, value, {**root["properties"][name], "$defs": root.get("$defs", {})}, path)


def _validated(adapter: TypeAdapter[Value], value: Any, root: Node, path: str) -> Value:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise SpecError(_one_line(error, root, path)) from None


def _one_line(error: ValidationError, root: Node, path: str) -> str:
    """Returns the first fault as a message, unknown keys before the rest, and how many more there are."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] not in _UNKNOWN)
    more = len(faults) - 1
    return _message(faults[0], root, path) + (f" (and {more} more fault{'s' if more > 1 else ''})" if more else "")


def _message(fault: Mapping[str, Any], root: Node, path: str) -> str:
    kind, got, loc = fault["type"], fault["input"], fault["loc"]
    own = fault.get("ctx", {}).get("error")  # what one of our validators raised
    if isinstance(own, SpecError):
        return str(own)
    if loc[-1:] == ("[key]",):
        return f"{place(root, loc[:-2], path)[0]} is {got!r}; expected a mapping whose keys are whole numbers"
    full, node = place(root, loc, path)
    if kind in _UNKNOWN:
        known = _section_at(root, loc[:-1])["properties"]
        return f"unknown key {full!r}: {nearest_name(str(loc[-1]), known)}"
    if kind == "missing":
        return f"{full} is missing; give it in the spec file or as --set {full}=..."
    if kind == "dataclass_type":
        return f"{full or 'the spec'} is {type(got).__name__}; expected a mapping of settings"
    shown = f"{got!r} ({type(got).__name__})" if kind.endswith("_type") else repr(got)
    expected = value_words(node, root) if own is None else str(own)
    return f"{full} is {shown}; expected {expected}{_advice(full, node)}"


def _section_at(root: Node, loc: tuple[str | int, ...]) -> Node:
    node = place(root, loc, "")[1]
    return root["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node


def _advice(full: str, node: Node) -> str:
    """Returns which command tells what a documented setting is."""
    name = full.removeprefix("tune.space.")
    return f"; `rapid-dist spec --explain {name}` tells what it is" if "description" in node and "." in name else ""


def to_plain(spec: Any) -> Any:
    """Returns the spec as nested dicts, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(spec):
        return {f.name: to_plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, tuple | list):
        return [to_plain(v) for v in spec]
    if isinstance(spec, dict):
        return {k: to_plain(v) for k, v in spec.items()}
    return spec


def require(condition: bool, message: str) -> None:
    """Raises SpecError with the message unless the condition holds."""
    if not condition:
        raise SpecError(message)


def require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises SpecError unless the value is one of the choices."""
    choices = sorted(choices)
    require(value in choices, f"{name} is {value!r}; expected one of {', '.join(choices)}")


def nearest_name(unknown: str, known: Iterable[str]) -> str:
    """Returns which known name was probably meant, or a list of them all."""
    known = list(known)
    close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
