"""Commands that measure: each prints one table, made in one run, with its peers in it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import click

from rapid_dist.cli_edge import json_option, translated


@click.group()
def bench() -> None:
    """Measure speed and quality beside peers, in one run."""


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word.replace("_", "")) for word in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"got {text!r}; expected whole numbers with commas between, such as 1,4,16") from None


@bench.command("kb")
@click.option("--keys", type=int, default=100_000, show_default=True, help="Keys of the largest base.")
@click.option("--dim", type=int, default=128, show_default=True, help="Numbers a key.")
@click.option("--sizes", callback=_numbers, help="Sizes to measure; else powers of ten from 10000, and --keys.")
@click.option("--gaussian-keys", type=int, help="Size of the Gaussian worst case, 0 for none; else at most 100000.")
@click.option("--shards", callback=_numbers, default="1,4,16", show_default=True, help="Numbers of shards.")
@click.option("--num-probes", callback=_numbers, default="1,2,4", show_default=True, help="Shards a routed query asks.")
@click.option("--queries", "num_queries", type=int, default=1000, show_default=True, help="Queries in a batch.")
@click.option("--num-neighbors", type=int, default=10, show_default=True, help="k of recall@k and of every query.")
@click.option("--rounds", type=int, default=7, show_default=True, help="Turns each contender has.")
@click.option("--threads", "num_threads", type=int, help="Threads of a build; else all cores.")
@click.option("--m", "M", type=int, default=16, show_default=True, help="Links a key (hnswlib's M).")
@click.option("--ef-construction", type=int, default=100, show_default=True)
@click.option("--ef-search", type=int, default=64, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--project", "project_keys", type=int, metavar="N", help="Also calculate the cost of N trajectories.")
@click.option("--project-cores", type=int, default=1000, show_default=True, help="Cores of that calculation.")
@json_option
@translated
def kb(as_json: bool, project_keys: int | None, project_cores: int, **options: Any) -> None:
    """Build and query knowledge bases beside brute force, one plain hnswlib index, and faiss.

    Rates are per second of CPU time of one core; ratios are against peers that took turns in the same run.
    """
    from rapid_dist.bench.rows import HEADER
    from rapid_dist.bench.run import run_kb_bench
    from rapid_dist.bench.summary import cost_of, summarize, summary_lines
    from rapid_dist.telemetry import say

    settings = _settings(**options)
    if project_keys is not None:
        cost_of([], settings, num_keys=project_keys, num_cores=project_cores)
    rows = []
    say(HEADER)
    for row in run_kb_bench(settings, say_fn=say):
        say(row.line())
        rows.append(row)
    projection = None
    if project_keys is not None:
        projection = cost_of(rows, settings, num_keys=project_keys, num_cores=project_cores)
    if as_json:
        click.echo(json.dumps(summarize(rows, settings, projection)))
        return
    for line in (HEADER, *(row.line() for row in rows), "", *summary_lines(rows, settings, projection)):
        click.echo(line)
