"""The command that measures what a second worker of private training brings."""

from __future__ import annotations

import dataclasses
import json

import click

from rapid_dist.cli.edge import json_option, translated


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
    from rapid_dist.artifacts.storage import Store
    from rapid_dist.bench.privacy_overhead import MNIST_SETTINGS
    from rapid_dist.bench.scaling import ScalingSettings, table_lines
    from rapid_dist.distributed.bench_scaling import run_scaling
    from rapid_dist.specs import load_spec, parse_spec

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
