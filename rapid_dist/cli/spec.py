"""The command that tells every setting of a spec: its type, range, default and meaning."""

from __future__ import annotations

import json

import click

from rapid_dist.cli.edge import json_option, translated


@click.command()
@click.option("--explain", "name", metavar="NAME", help="Tell one setting (privacy.sample_rate) or section (privacy).")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a spec file, for editors and other programs.")
@click.option("--study", is_flag=True, help="Include the tune section, which makes a spec a study.")
@json_option
@translated
def spec(name: str | None, schema: bool, study: bool, as_json: bool) -> None:
    """List every setting of a spec file with its default and its meaning, section by section.

    A spec file is YAML with one mapping a section; --set section.key=value changes one setting on the command line.
    """
    from rapid_dist.specs.explain import explain, json_schema, list_settings, plain_settings

    if name is not None and schema:
        raise click.UsageError("give --schema or --explain, not both")
    if schema:
        click.echo(json.dumps(json_schema(study=study), indent=None if as_json else 2))
    elif as_json:
        click.echo(json.dumps({"settings": plain_settings(name, study=study)}))
    elif name is not None:
        click.echo(explain(name))
    else:
        click.echo(list_settings(study=study))
