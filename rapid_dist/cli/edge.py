"""The edge of the command line: errors become one line and an exit code, results one JSON object where asked."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from rapid_dist import errors


def translated(fn: Callable[..., None]) -> Callable[..., None]:
    """Turns an error of ours into one line on stderr and exit code 2, and Ctrl-C into 130."""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            fn(*args, **kwargs)
        except errors.RapidDistError as error:
            click.echo(f"rapid-dist: {' '.join(str(error).split())}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("rapid-dist: interrupted; run the same line again to resume", err=True)
            sys.exit(130)

    return run


def json_option(fn: Callable[..., None]) -> Callable[..., None]:
    """Adds --json, passed as as_json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")(fn)
