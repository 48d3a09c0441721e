"""The command that searches settings under one fixed epsilon."""

from __future__ import annotations

import json
from typing import Any

import click

from rapid_dist.cli.edge import json_option, translated
from rapid_dist.cli.metrics import metrics_option


@click.command()
@click.argument("spec_path", metavar="SPEC", type=click.Path())
@click.option("--out", required=True, metavar="URI", help="Folder or s3:// prefix of the study.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting.")
@click.option("--dry-run", is_flag=True, help="Print the resolved study and what it will cost, and do nothing.")
@metrics_option
@json_option
@translated
def tune(spec_path: str, out: str, overrides: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Search the settings in the tune section of SPEC with Ray Tune; the same line again resumes.

    tune.mode says how private data is paid for: public_proxy reads none, repeat_select releases the winner only,
    compose counts every trial, subset tunes on a secret part. Writes best.yaml, which `rapid-dist run` takes as it is.
    """
    if dry_run:
        _print_plan(spec_path, overrides, as_json)
        return
    run_tune(spec_path, out, overrides, as_json=as_json)


def _print_plan(spec_path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from rapid_dist.specs.study import load_study
    from rapid_dist.tune.costs import expected_cost

    study = load_study(spec_path, overrides=overrides)
    cost = expected_cost(study)
    if as_json:
        click.echo(json.dumps({"study": study.to_plain(), "digest": study.digest, "cost": cost}))
        return
    click.echo(study.to_yaml())
    click.echo(f"objective         {study.tune.score_name}")
    click.echo(f"cost              {cost['words']}")
    click.echo(f"noise multiplier  {cost['noise_multiplier']:.4f} in a trial of the spec as it stands")


def run_tune(spec_path: str, out: str, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """What the command and the Ray job do."""
    from rapid_dist.specs.study import load_study
    from rapid_dist.storage.store import Store
    from rapid_dist.tune.run import run_study

    answer = run_study(load_study(spec_path, overrides=overrides), Store(out))
    if as_json:
        click.echo(json.dumps(answer))
        return
    _print(answer)


def _print(answer: dict[str, Any]) -> None:
    study, statement = answer["study"], answer["statement"]
    for key, value in study["best"].items():
        click.echo(f"{key:<32} {value}   (base: {study['base'][key]})")
    if study["mode"] is None:
        click.echo("no epsilon is stated: tune.mode is not named in the spec")
    else:
        click.echo(statement["words"])
    for item in study["reused"] if study["mode"] != "repeat_select" else []:
        click.echo(f"{item['what']}: reused {item['times']} times, {item['seconds_saved']:.0f} s saved")
    for name in ("best.yaml", "study.html"):
        click.echo(f"{name:<10} {answer['paths'][name]}")
    if study["mode"] in ("compose", "repeat_select"):
        click.echo(
            f"to draw and measure images at no further cost: rapid-dist run {answer['paths']['best.yaml']} "
            f"--out {answer['out']}/best"
        )


@click.command(help="Searches the tune section of a spec; the same job again resumes.")
@click.option("--spec", "spec_path", required=True, metavar="FILE", help="YAML spec, in the working directory.")
@click.option("--out", required=True, metavar="URI", help="Folder or s3:// prefix of the study; all nodes reach it.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting.")
@translated
def sweep_job(spec_path: str, out: str, overrides: tuple[str, ...]) -> None:
    """The entry of the Ray job; the last line of its log is one JSON object."""
    run_tune(spec_path, out, overrides, as_json=True)
