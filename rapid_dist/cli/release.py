"""The way out of a finished run: more images, exports for other programs, and a gate."""

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


@click.command()
@click.argument("place", metavar="RUN")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["folder", "parquet", "webdataset", "hf", "npz"]),
    help="What other programs read: PNG files, Parquet, tar shards or arrays.",
)
@click.option("--out", required=True, metavar="URI", help="A new folder or s3:// prefix.")
@json_option
@translated
def export(place: str, form: str, out: str, as_json: bool) -> None:
    """Write the released samples of RUN for other programs, with data card, Croissant and checksums.

    RUN is the folder of a finished run, or one that `rapid-dist sample RUN --num N --out FOLDER` drew into.

    Example: rapid-dist export my-run --format folder --out published
    """
    from rapid_dist import layout
    from rapid_dist.export.write import export_samples, open_drawn
    from rapid_dist.run import Run
    from rapid_dist.storage.store import Store

    if Store(place).exists(layout.SPEC):
        run = Run.open(place)
        samples, title = run.samples(), run.spec.name
    else:
        samples, title = open_drawn(Store(place))
    target = Store(out)
    written = export_samples(samples, target, form=form, title=title)
    if as_json:
        click.echo(json.dumps({"out": target.uri, "format": form, **written}))
        return
    click.echo(f"{written['images']} images in {written['files']} files in {target.uri}; read its README.md first")


@click.command()
@click.argument("place", metavar="RUN")
@click.option("--max-epsilon", type=float, metavar="X", help="The most that the stated epsilon may be.")
@click.option("--max-delta", type=float, metavar="X", help="The most that the delta of that statement may be.")
@click.option("--min-accuracy", type=float, metavar="X", help="Of a classifier trained on the samples, from 0 to 1.")
@click.option("--max-fid", type=float, metavar="X", help="The largest FID.")
@json_option
@translated
def check(place: str, as_json: bool, **bounds: float | None) -> None:
    """Hold the numbers of RUN against bounds: PASS or FAIL lines, and exit code 0 or 1.

    The run's own files are read and must match their digests; with --min-accuracy and --max-fid it must be evaluated.

    Example: rapid-dist check my-run --max-epsilon 3 --min-accuracy 0.8
    """
    from rapid_dist.export.gate import check_release
    from rapid_dist.storage.store import Store

    verdicts = check_release(Store(place), bounds)
    passed = all(verdict.passed for verdict in verdicts)
    if as_json:
        click.echo(json.dumps({"passed": passed, "checks": [vars(verdict) for verdict in verdicts]}))
    else:
        for verdict in verdicts:
            click.echo(str(verdict))
    if not passed:
        raise SystemExit(1)


RELEASE_COMMANDS = (sample, export, check)
