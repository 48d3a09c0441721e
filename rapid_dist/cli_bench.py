"""Commands that measure: each prints one table, made in one run, with its peers in it."""

from __future__ import annotations

import click


@click.group()
def bench() -> None:
    """Measure speed and quality beside peers, in one run."""
