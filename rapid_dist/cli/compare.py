"""The command that runs several methods on the same data and prints one table."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from rapid_dist.cli.edge import json_option, translated
from rapid_dist.cli.metrics import metrics_option


@click.command()
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True)
@click.option("--epsilon", "epsilons", type=float, multiple=True, required=True, help="A budget; may be repeated.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True, help="May be repeated.")
@click.option("--out", required=True, metavar="URI", help="Folder or s3:// prefix of the comparison.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting of every run.")
@click.option("--dry-run", is_flag=True, help="List the runs with what each will spend, and do nothing.")
@metrics_option
@json_option
@translated
def compare(
    recipes: tuple[str, ...],
    epsilons: tuple[float, ...],
    seeds: tuple[int, ...],
    out: str,
    overrides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run several methods on the same data, each within the same epsilon, and print one table.

    RECIPE is the name of a recipe that ships with the package (statistics, rapid, ...) or the path of a spec. The same
    line again resumes. Example:

    \b
      rapid-dist compare statistics rapid --epsilon 1 --epsilon 10 --out table \\
        --set data.private=scans --set data.public=public --set data.test=test
    """
    from rapid_dist.storage.store import Store
    from rapid_dist.tune.compare import comparison, run_comparison, table_lines

    rows = comparison(recipes, epsilons, seeds=seeds, overrides=overrides)
    if dry_run:
        from rapid_dist.training.plan import build_plan

        planned = [{"run": row.folder, "epsilon": build_plan(row.spec).planned_epsilon().pld} for row in rows]
        lines = [json.dumps({"runs": planned})] if as_json else [f"{p['run']:<40} {p['epsilon']:.4f}" for p in planned]
        click.echo("\n".join(lines))
        return
    answers = run_comparison(rows, Store(out))
    if as_json:
        click.echo(json.dumps({"out": Store(out).uri, "rows": [asdict(row) for row in answers]}))
        return
    for line in table_lines(answers):
        click.echo(line)
