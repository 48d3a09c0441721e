"""The commands that run the stages of a spec, one by one or all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from rapid_dist.cli.edge import json_option, translated
from rapid_dist.cli.metrics import metrics_option


def _spec_options(fn: Callable[..., None]) -> Callable[..., None]:
    fn = metrics_option(fn)
    fn = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting.")(fn)
    fn = click.option("--out", required=True, metavar="URI", help="Folder or s3:// prefix of the run.")(fn)
    return click.argument("spec_path", metavar="SPEC", type=click.Path())(fn)


def print_results(results: list[Any], out: str, as_json: bool) -> None:
    """Prints what each stage did, as lines or as one JSON object."""
    if as_json:
        plain = [vars(r) for r in results]
        click.echo(json.dumps({"out": out, "stages": plain}))
        return
    for r in results:
        click.echo(f"{r.stage:<12} {'skipped' if r.skipped else f'{r.seconds:.1f} s':>10}   {r.uri}")


def _stage_command(name: str, help_text: str) -> click.Command:
    @click.command(name, help=help_text)
    @_spec_options
    @json_option
    @translated
    def command(spec_path: str, out: str, overrides: tuple[str, ...], as_json: bool) -> None:
        from rapid_dist.run import Run
        from rapid_dist.specs import load_spec
        from rapid_dist.storage.store import Store

        run = Run(load_spec(spec_path, overrides=overrides), Store(out))
        print_results(run.run_stages((name,)), run.out.uri, as_json)

    return command


STAGE_COMMANDS = (
    _stage_command("pretrain", "Train the public models of a run (after ingest)."),
    _stage_command("build-kb", "Build the knowledge base of public trajectories (after pretrain)."),
    _stage_command("train", "Train the private denoiser with DP-SGD (after build-kb)."),
    _stage_command("evaluate", "Measure usefulness and likeness, write the report (after sample)."),
)


def _reading_options(fn: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for each setting of data.reading."""
    for option in (
        click.option("--fit", type=click.Choice(["crop", "pad", "stretch"]), help="How images become square."),
        click.option("--background", type=click.Choice(["white", "black"]), help="What lies under transparency."),
        click.option("--frame", type=int, help="Which frame of an animation, or page of a TIFF, counted from 0."),
        click.option("--value-range", metavar="LO,HI", help="Pixel values that stand for black and white: 0,4095."),
        click.option("--label-column", metavar="NAME", help="Column or array with the labels."),
        click.option("--image-column", metavar="NAME", help="Column or array with the images."),
        click.option("--split", metavar="NAME", help="Which split of a source that holds several."),
    ):
        fn = option(fn)
    return fn


def _reading(value_range: str | None, **reading: Any) -> Any:
    from rapid_dist.errors import SpecError
    from rapid_dist.specs.reading import ReadingSpec

    ends = None
    if value_range is not None:
        try:
            ends = tuple(float(end) for end in value_range.split(","))
        except ValueError:
            raise SpecError(f"--value-range is {value_range!r}; expected two numbers, such as 0,4095") from None
    return ReadingSpec(value_range=ends, **reading)


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option("--out", required=True, metavar="URI", help="Folder or s3:// prefix of the dataset.")
@click.option(
    "--privacy-class",
    required=True,
    type=click.Choice(["public", "private"]),
    help="What the images are. Required: it is never guessed.",
)
@click.option("--image-size", type=int, help="Resize to this many pixels a side (8 to 64).")
@click.option("--num-channels", type=int, help="1 grey, 3 RGB.")
@click.option("--num-classes", type=int, default=0, help="Ask for a label below this on every record.")
@click.option("--class-names", help="Comma-separated names in label order.")
@click.option(
    "--skip-corrupt", is_flag=True, help="Leave out images that cannot be decoded, and count them in the manifest."
)
@click.option("--drop-equal-to", metavar="URI", help="An ingested public dataset; equal private records are dropped.")
@_reading_options
@json_option
@translated
def ingest(
    source: str,
    out: str,
    privacy_class: str,
    image_size: int | None,
    num_channels: int | None,
    num_classes: int,
    class_names: str | None,
    skip_corrupt: bool,
    drop_equal_to: str | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Read images into a dataset with a privacy class.

    SOURCE is a folder of class sub-folders, a flat folder, Parquet files or an .npz file, local or s3://. For private
    images the shape is stated (--image-size and --num-channels, or --drop-equal-to a public dataset of that shape), and
    so are the names of class folders and text labels (--class-names): nothing about one image is read off the others.
    """
    from rapid_dist.runtime.session import ray_session
    from rapid_dist.specs import RuntimeSpec
    from rapid_dist.stages.ingest import run_ingest
    from rapid_dist.storage.store import Store

    store = Store(out)
    with ray_session(RuntimeSpec()):
        manifest = run_ingest(
            source,
            store,
            privacy_class=privacy_class,
            image_size=image_size,
            num_channels=num_channels,
            class_names=tuple(name.strip() for name in class_names.split(",")) if class_names else None,
            num_classes=num_classes,
            skip_corrupt=skip_corrupt,
            drop_equal_to=Store(drop_equal_to) if drop_equal_to else None,
            reading=_reading(**reading),
        )
    shape, count = tuple(manifest.facts["image_shape"]), sum(f.rows for f in manifest.files)
    if privacy_class == "private":  # numbers of private records are told in the private manifest alone
        facts = {name: manifest.facts[name] for name in ("image_shape", "class_names")}
        words = (
            f"private images of shape {shape} in {store.uri}; its manifest, as private as they are, holds all counts"
        )
    else:
        facts = {"num_examples": count, **manifest.facts}
        words = f"{count} public images of shape {shape} in {store.uri}"
    click.echo(json.dumps({"out": store.uri, **facts}) if as_json else words)


@click.command()
@_spec_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Look at the sources and the budget, print the resolved spec and its cost, and do nothing.",
)
@json_option
@translated
def run(spec_path: str, out: str, overrides: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Run every stage of SPEC into one folder; the same line again resumes or skips."""
    from rapid_dist.run import Run
    from rapid_dist.specs import load_spec
    from rapid_dist.storage.store import Store

    spec = load_spec(spec_path, overrides=overrides)
    whole = Run(spec, Store(out))
    if dry_run:
        whole.check()
        _print_plan(spec, as_json)
        return
    results = whole.run_stages()
    _print_report(whole, results, as_json)


@click.command()
@click.option("--out", default="rapid-demo", show_default=True, metavar="URI", help="Folder of the run.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting.")
@metrics_option
@json_option
@translated
def demo(out: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Run everything on embedded data: handwritten digits are private, rendered fonts public. No download."""
    from rapid_dist.run import Run, demo_spec
    from rapid_dist.storage.store import Store

    whole = Run(demo_spec(Store(out), overrides), Store(out))
    results = whole.run_stages()
    _print_report(whole, results, as_json)


def _print_plan(spec: Any, as_json: bool) -> None:
    from rapid_dist.training.plan import build_plan

    plan = build_plan(spec)
    cost = plan.planned_epsilon()
    if as_json:
        plain = {"spec": spec.to_plain(), "digest": spec.digest, "plan": plan.to_plain(), "planned_epsilon": cost.pld}
        click.echo(json.dumps(plain))
        return
    click.echo(spec.to_yaml())
    prv = "not available" if cost.prv is None else f"{cost.prv:.4f}"
    click.echo(f"noise multiplier  {plan.noise_multiplier:.4f}")
    accountants = f"{cost.pld:.4f} (PLD), {prv} (PRV), {cost.rdp:.4f} (RDP)"
    click.echo(f"epsilon           {accountants} at delta {plan.target_delta:g}")
    click.echo(f"target            {plan.target_epsilon:g}; {plan.spare_steps} spare steps for restarts are paid for")


def _print_report(whole: Any, results: list[Any], as_json: bool) -> None:
    from rapid_dist import layout
    from rapid_dist.evaluation.wording import summary_lines

    report = whole.report()
    folder = whole.store(layout.EVALUATION)
    paths = {"report": folder.uri_of("report.html"), "grid": folder.uri_of("grid.png")}
    if as_json:
        click.echo(json.dumps({**report, "out": whole.out.uri, "paths": paths, "stages": [vars(r) for r in results]}))
        return
    for line in summary_lines(report):
        click.echo(line)
    click.echo(f"\nreport   {paths['report']}\npictures {paths['grid']}")
