"""The benchmark of the knowledge base, beside brute force, plain hnswlib and faiss."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from rapid_dist.cli.edge import json_option, translated

# Graphs over i.i.d. Gaussian keys take several times as long to build, and recall falls as they grow.
_MAX_GAUSSIAN_KEYS = 100_000


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word.replace("_", "")) for word in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"got {text!r}; expected whole numbers with commas between, such as 1,4,16") from None


@click.command("kb")
@click.option("--keys", type=int, default=100_000, show_default=True, help="Keys of the largest base.")
@click.option("--dim", type=int, default=128, show_default=True, help="Numbers a key.")
@click.option("--sizes", callback=_numbers, help="Sizes to measure; else powers of ten from 10000, and --keys.")
@click.option("--gaussian-keys", type=int, help="Size of the Gaussian worst case, 0 for none; else at most 100000.")
@click.option("--shards", callback=_numbers, default="1,4,16", show_default=True, help="Numbers of shards.")
@click.option(
    "--num-probes", callback=_numbers, default="1,2,4,8", show_default=True, help="Shards a routed query asks."
)
@click.option("--queries", "num_queries", type=int, default=1000, show_default=True, help="Queries in a batch.")
@click.option("--num-neighbors", type=int, default=10, show_default=True, help="k of recall@k and of every query.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Turns each contender has.")
@click.option("--threads", "num_threads", type=int, help="Threads of a build; else all cores.")
@click.option("--m", "M", type=int, default=16, show_default=True, help="Links a key (hnswlib's M).")
@click.option("--ef-construction", type=int, default=100, show_default=True, help="Candidates kept while building.")
@click.option("--ef-search", type=int, default=100, show_default=True, help="Candidates kept while searching.")
@click.option("--seed", type=int, default=0, show_default=True, help="Addresses the keys and the queries.")
@json_option
@translated
def kb(as_json: bool, **options: Any) -> None:
    """Build and query knowledge bases beside brute force, one plain hnswlib index, and faiss.

    Rates are per second of CPU time of one core; ratios are against peers that took turns in the same run. Keys are
    clustered as the feature extractor makes them; the i.i.d. Gaussian worst case stands beside them.
    """
    settings = _settings(**options)
    from rapid_dist.bench.rows import HEADER
    from rapid_dist.bench.run import run_kb_bench
    from rapid_dist.bench.summary import summarize, summary_lines
    from rapid_dist.telemetry import say

    rows = []
    say(HEADER)
    try:
        for row in run_kb_bench(settings, say_fn=say):
            say(row.line())
            rows.append(row)
    except KeyboardInterrupt:
        say("rapid-dist: interrupted; the lines above are what was measured, nothing else is kept")
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(summarize(rows, settings)))
        return
    for line in (HEADER, *(row.line() for row in rows), "", *summary_lines(rows, settings)):
        click.echo(line)


def _settings(
    *,
    keys: int,
    gaussian_keys: int | None,
    num_threads: int | None,
    M: int,
    ef_construction: int,
    ef_search: int,
    seed: int,
    **options: Any,
) -> Any:
    from rapid_dist.bench.settings import BenchSettings, IndexSettings

    return BenchSettings(
        keys=keys,
        gaussian_keys=min(keys, _MAX_GAUSSIAN_KEYS) if gaussian_keys is None else gaussian_keys,
        num_threads=(os.cpu_count() or 1) if num_threads is None else num_threads,
        index=IndexSettings(M=M, ef_construction=ef_construction, ef_search=ef_search, seed=seed),
        **options,
    )
