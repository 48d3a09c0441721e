"""Metrics on the command line: the option that opens an endpoint, and the list of what it can show."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import click

from rapid_dist.cli.edge import json_option, translated


def metrics_option(fn: Callable[..., None]) -> Callable[..., None]:
    """Adds --metrics-port to a command, which then records into an endpoint that is open while it runs."""

    @click.option(
        "--metrics-port",
        type=click.IntRange(1, 65535),
        metavar="N",
        help="Serve metrics for Prometheus on http://127.0.0.1:N/metrics while this runs.",
    )
    @functools.wraps(fn)
    @translated
    def run(*args: Any, metrics_port: int | None, **kwargs: Any) -> None:
        if metrics_port is None:
            fn(*args, **kwargs)
            return
        from rapid_dist.metrics.prometheus import metrics_endpoint

        with metrics_endpoint(metrics_port):
            fn(*args, **kwargs)

    return run


@click.command()
@json_option
@translated
def metrics(as_json: bool) -> None:
    """List every metric that can be exported, with its unit and privacy class."""
    from rapid_dist.metrics.catalog import CATALOG

    if as_json:
        click.echo(json.dumps({"metrics": [dataclasses.asdict(m) for m in CATALOG.values()]}))
        return
    for metric in CATALOG.values():
        labels = ", ".join(metric.label_names)
        click.echo(f"{metric.name}{{{labels}}}  {metric.kind}, {metric.unit}, {metric.privacy_class}")
        click.echo(f"    {metric.text}")
