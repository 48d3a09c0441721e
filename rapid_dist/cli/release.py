"""The way out of a finished run: more images, drawn later."""

from __future__ import annotations

import json

import click

from rapid_dist.cli.edge import json_option, translated
from rapid_dist.cli.metrics import metrics_option


def _counts(lines: tuple[str, ...]) -> dict[str, int]:
    """--class NAME=COUNT as {name: count}; a name may hold an equals sign. Raises InputError."""
    from rapid_dist.errors import InputError

    counts: dict[str, int] = {}
    for line in lines:
        name, _, count = line.rpartition("=")
        if not name or not count.isdecimal():
            raise InputError(f"--class is {line!r}; expected NAME=COUNT, such as pneumonia=500")
        if name in counts:
            raise InputError(f"--class names {name!r} twice; give it one count")
        counts[name] = int(count)
    return counts


@click.command()
@click.argument("place", metavar="RUN")
@click.option("--num", type=int, metavar="N", help="How many more images, in all.")
@click.option("--class", "classes", multiple=True, metavar="NAME=COUNT", help="How many of a class; others share.")
@click.option("--seed", type=int, help="Another seed gives other images; by default that of the spec.")
@click.option("--out", metavar="URI", help="Folder or s3:// prefix of the images; by default inside the run's folder.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting.")
@metrics_option
@json_option
@translated
def sample(
    place: str,
    num: int | None,
    classes: tuple[str, ...],
    seed: int | None,
    out: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Draw more images from the finished folder RUN, at no privacy cost; the same line again resumes.

    With --num or --class, images are drawn into a folder of their own, and the run and its ledger stay as they are.
    Where RUN is a spec file instead, this is the stage of that name, and --out is the folder of the run.

    Example: rapid-dist sample my-run --num 100000 --class pneumonia=30000 --out more
    """
    from rapid_dist.errors import InputError
    from rapid_dist.run import Run

    if num is None and not classes:
        if out is None or seed is not None:
            raise InputError("how many images is not said; give --num N or --class NAME=COUNT, as in --num 1000")
        from rapid_dist.cli.stages import print_results

        run = Run(place, out, overrides=overrides)
        print_results(run.run_stages(("sample",)), run.out.uri, as_json)
        return
    drawn = Run.open(place, overrides=overrides).sample_more(num, classes=_counts(classes), seed=seed, out=out)
    counts = drawn.counts()
    if as_json:
        click.echo(json.dumps({"out": drawn.store.uri, "num": len(drawn), "counts": counts}))
        return
    click.echo(f"{len(drawn)} images in {drawn.store.uri}")
    for name, count in counts.items():
        click.echo(f"{count:>10}  {json.dumps(name, ensure_ascii=False)}")


RELEASE_COMMANDS = (sample,)
