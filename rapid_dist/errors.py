"""Every error a user can cause or meet, in one tree; the command line turns each into one line and exit code 2.

A message says what was got, what was expected and what to do. A bug is not in this tree and keeps its traceback.

Some are of Python's own kinds too, so that `except ValueError` and `except OSError` around a call work as ever.
Inside the package a clause for such a kind comes after `except RapidDistError: raise` wherever an error of this tree
can arise under it: it would give that error another name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class RapidDistError(Exception):
    """Base of all errors that are about the input or the surroundings, not about the code."""


class SpecError(RapidDistError, ValueError):
    """A setting is unknown, out of range, or does not fit the other settings."""


class InputError(RapidDistError, ValueError):
    """Source data is missing, empty, corrupt, or of the wrong shape or kind."""


class ArtifactError(RapidDistError):
    """A folder holds the work of another spec, or a file does not match its manifest."""


class StorageError(RapidDistError, OSError):
    """The store refused, is full, or cannot be reached."""


class PrivacyError(RapidDistError):
    """Continuing would break or overstate the privacy guarantee."""


class BudgetExceededError(PrivacyError):
    """A charge would push the spent epsilon over the target."""


def as_value(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Returns {"value": fn(...)}, or the error of this tree that it raised as plain text.

    For answers that cross a process: Ray would wrap an error, and its traceback may hold private values. A bug flies.
    """
    try:
        return {"value": fn(*args, **kwargs)}
    except RapidDistError as error:
        return failure(error)


def failure(error: RapidDistError) -> dict[str, Any]:
    """Returns an error of this tree as plain text, as value_of takes it."""
    return {"error": type(error).__name__, "message": str(error)}


def value_of(answer: Mapping[str, Any]) -> Any:
    """Returns the value in an answer of as_value, or raises the error in it."""
    if "error" in answer:
        raise error_named(answer["error"], answer["message"])
    return answer["value"]


def error_named(name: str, message: str) -> RapidDistError:
    """The error of this tree with that class name, for errors that crossed a process as text."""
    known = {cls.__name__: cls for cls in _descendants(RapidDistError)}
    return known.get(name, RapidDistError)(message)


def _descendants(cls: type[RapidDistError]) -> list[type[RapidDistError]]:
    return [cls, *(d for child in cls.__subclasses__() for d in _descendants(child))]
