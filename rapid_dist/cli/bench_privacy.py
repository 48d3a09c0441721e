"""The command that measures what privacy costs of a training step."""

from __future__ import annotations

import dataclasses
import json

import click

from rapid_dist.cli.edge import json_option, translated


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
