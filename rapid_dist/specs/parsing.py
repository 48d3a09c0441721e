"""From a mapping to a frozen dataclass: unknown keys are named with the nearest known one, types are checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from rapid_dist.errors import SpecError


def require(condition: bool, message: str) -> None:
    """Raises SpecError with the message unless the condition holds."""
    if not condition:
        raise SpecError(message)


def require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises SpecError unless the value is one of the choices."""
    choices = sorted(choices)
    require(value in choices, f"{name} is {value!r}; expected one of {', '.join(choices)}")


def require_positive(owner: Any, prefix: str, *names: str) -> None:
    """Checks that the named fields of a spec are finite and above zero."""
    for name in names:
        value = getattr(owner, name)
        require(math.isfinite(value) and value > 0, f"{prefix}.{name} is {value}; expected a number above 0")


def nearest_name(unknown: str, known: Iterable[str]) -> str:
    """Says which known name was probably meant, or lists them all."""
    known = list(known)
    close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def from_mapping(cls: type, mapping: Any, path: str) -> Any:
    """Builds a spec section from a mapping. Raises SpecError for unknown keys, wrong types and missing values."""
    if not isinstance(mapping, Mapping):
        raise SpecError(f"{path} is {type(mapping).__name__}; expected a mapping of settings")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in mapping.items():
        full = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise SpecError(f"unknown key {full!r}: {nearest_name(str(key), fields)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            values[key] = from_mapping(hint, value if value is not None else {}, full)
        else:
            values[key] = _coerce(value, hint, full)
    for name, field in fields.items():
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing and name not in values:
            full = f"{path}.{name}" if path else name
            raise SpecError(f"{full} is missing; give it in the spec file or as --set {full}=...")
    return cls(**values)


def _coerce(value: Any, hint: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        members = typing.get_args(hint)
        if value is None and type(None) in members:
            return None
        (member,) = [m for m in members if m is not type(None)]
        return _coerce(value, member, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SpecError(f"{path} is {value!r}; expected a list")
        item = typing.get_args(hint)[0]
        return tuple(_coerce(v, item, f"{path}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SpecError(f"{path} is {value!r}; expected a mapping")
        key_hint, value_hint = typing.get_args(hint)
        return {_coerce(k, key_hint, path): _coerce(v, value_hint, f"{path}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-5 (no dot) as a string.
        try:
            return float(value)
        except ValueError:
            pass
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise SpecError(f"{path} is {value!r} ({type(value).__name__}); expected {hint.__name__}")


def to_plain(spec: Any) -> Any:
    """The spec as nested dicts, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(spec):
        return {f.name: to_plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, tuple | list):
        return [to_plain(v) for v in spec]
    if isinstance(spec, dict):
        return {k: to_plain(v) for k, v in spec.items()}
    return spec
