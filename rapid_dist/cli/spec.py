"""The command that tells every setting of a spec: its type, range, default and meaning."""

from __future__ import annotations

import json

import click

from rapid_dist.cli.edge import translated


@click.command()
@click.option("--explain", "name", metavar="NAME", help="Tell one setting (privacy.sample_rate) or section (privacy).")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a spec file, for editors and other programs.")
@click.option("--study", is_flag=True, help="Include the tune section, which makes a spec a study.")
@translated
def spec(name: str | None, schema: bool, study: bool) -> None:
    """List every setting of a spec file with its default and its meaning, section by section.

    A spec file is YAML with one mapping a section; --set section.key=value changes one setting on the command line.
    """
    from rapid_dist.specs.explain import explain, json_schema, list_settings

    if name is not None and schema:
        raise click.UsageError("give --schema or --explain, not both")
    if name is not None:
        click.echo(explain(name))
    elif schema:
        click.echo(json.dumps(json_schema(study=study), indent=2))
    else:
        click.echo(list_settings(study=study))
