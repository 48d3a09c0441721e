"""Benchmarks as commands: knowledge base, what privacy costs of a step, a second worker."""

from __future__ import annotations

import dataclasses
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
    from rapid_dist.bench.kb import run_kb_bench
    from rapid_dist.bench.settings import HEADER, summarize, summary_lines
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


@click.command("privacy")
@click.option("--spec", "spec_path", metavar="SPEC", type=click.Path(), help="A run's spec; else the MNIST settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting of SPEC.")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Training steps to measure.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads a worker uses; else what torch finds.")
@json_option
@translated
def privacy(spec_path: str | None, overrides: tuple[str, ...], steps: int, threads: int | None, as_json: bool) -> None:
    """Measure keyed inclusion, secure noise and the ledger as a share of a private training step.

    Real steps of one worker on random latents of the spec's shapes, every part timed in every step.
    """
    from rapid_dist.bench.privacy_overhead import MNIST_SETTINGS, measure_privacy_overhead, table_lines
    from rapid_dist.specs import load_spec, parse_spec

    if spec_path is None:
        spec = parse_spec(MNIST_SETTINGS, overrides=overrides, source="the built-in settings")
    else:
        spec = load_spec(spec_path, overrides=(*_NO_DATA, *overrides))
    result = measure_privacy_overhead(spec, num_steps=steps, num_threads=threads)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    for line in table_lines(result):
        click.echo(line)


# A spec may leave its data to the command line; nothing is read here.
_NO_DATA = ("data.private=none", "data.public=none")


@click.command("scaling")
@click.option("--spec", "spec_path", metavar="SPEC", type=click.Path(), help="A run's spec; else the MNIST settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting of SPEC.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Pairs of turns.")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Steps of a turn.")
@click.option("--work", metavar="URI", help="A folder all workers see, on a cluster; it is left for you to delete.")
@json_option
@translated
def scaling(
    spec_path: str | None, overrides: tuple[str, ...], rounds: int, steps: int, work: str | None, as_json: bool
) -> None:
    """Measure private training on 2 workers against 1, one thread each.

    Real steps on made-up records of the spec's sizes, the same global batch, turn by turn in one worker group. The
    parts of a step are those of the project's own metrics.
    """
    from rapid_dist.bench.privacy_overhead import MNIST_SETTINGS
    from rapid_dist.bench.scaling import ScalingSettings, table_lines
    from rapid_dist.specs import load_spec, parse_spec
    from rapid_dist.stages.audit import run_scaling
    from rapid_dist.storage.store import Store

    if spec_path is None:
        spec = parse_spec(MNIST_SETTINGS, overrides=overrides, source="the built-in settings")
    else:
        spec = load_spec(spec_path, overrides=("data.private=none", "data.public=none", *overrides))
    result = run_scaling(spec, ScalingSettings(rounds=rounds, steps=steps), Store(work) if work else None)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    for line in table_lines(result):
        click.echo(line)


@click.group()
def bench() -> None:
    """Measure speed and quality beside peers, in one run."""


for _command in (kb, privacy, scaling):
    bench.add_command(_command)
