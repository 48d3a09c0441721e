"""Commands that measure: each prints one table, made in one run, with its peers in it."""

from __future__ import annotations

import click

from rapid_dist.cli.bench_kb import kb
from rapid_dist.cli.bench_privacy import privacy
from rapid_dist.cli.bench_scaling import scaling


@click.group()
def bench() -> None:
    """Measure speed and quality beside peers, in one run."""


for _command in (kb, privacy, scaling):
    bench.add_command(_command)
