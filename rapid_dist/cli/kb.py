"""Commands of the knowledge base's life: build, append, compact, stats, query, verify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rapid_dist.cli.edge import json_option, translated


@click.group()
def kb() -> None:
    """Build, grow, look into and check the knowledge base of a run."""


def _run_options(fn: Callable[..., None]) -> Callable[..., None]:
    fn = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting.")(fn)
    fn = click.option("--out", required=True, metavar="URI", help="Folder or s3:// prefix of the run.")(fn)
    return click.argument("spec_path", metavar="SPEC", type=click.Path())(fn)


def _open_run(spec_path: str, out: str, overrides: tuple[str, ...]) -> Any:
    from rapid_dist.run import Run
    from rapid_dist.specs import load_spec
    from rapid_dist.storage.store import Store

    run = Run(load_spec(spec_path, overrides=overrides), Store(out))
    run.save_spec()
    return run


def _open_base(uri: str) -> tuple[Any, Any]:
    """The store and newest version of a base, given its folder or its run's."""
    from rapid_dist.knowledge_base.library import find_base

    return find_base(uri)


def _print_base(store: Any, manifest: Any, as_json: bool) -> None:
    from rapid_dist.knowledge_base.versions import base_stats, read_versions

    stats = base_stats(store, manifest, read_versions(store))
    if as_json:
        click.echo(json.dumps(stats))
        return
    rows = list(stats["rows_per_shard"].values())
    click.echo(f"base          {stats['uri']}, version {stats['version']}, {stats['digest'][:12]}")
    kept = ", ".join(map(str, stats["kept_versions"])) or "1"
    click.echo(f"kept versions {kept}")
    click.echo(f"trajectories  {stats['num_trajectories']} in {len(stats['sets']) or 1} sets of images")
    click.echo(f"shards        {len(rows)} by {stats['assignment']}, {min(rows)} to {max(rows)} rows")
    for name, size in stats["bytes"].items():
        click.echo(f"{name:<13} {size / 2**20:.3g} MiB")
    _print_recall(stats["recall"], stats["routing"])


def _print_recall(recall: dict[str, float], routing: dict[str, dict[str, float]]) -> None:
    click.echo(f"recall        {_recall_line(recall)}")
    for probes, values in routing.items():
        click.echo(f"  {probes:>4} probes {_recall_line(values)}")


def _recall_line(values: dict[str, float]) -> str:
    return "  ".join(f"@{name.removeprefix('recall_at_')} {value:.4f}" for name, value in values.items())


@kb.command()
@_run_options
@json_option
@translated
def build(spec_path: str, out: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Build the base of a run (after pretrain); of a finished one only what is damaged is made anew."""
    run = _open_run(spec_path, out, overrides)
    run.run_stages(("build-kb",))
    _print_base(*_open_base(out), as_json)


@kb.command()
@_run_options
@click.option("--images", required=True, metavar="URI", help="An ingested public dataset to add.")
@json_option
@translated
def append(spec_path: str, out: str, overrides: tuple[str, ...], images: str, as_json: bool) -> None:
    """Add new public images as new shards; nothing that exists is rebuilt.

    The base gets a new version. A model trained with an earlier one must be trained again in another --out folder.
    """
    from rapid_dist.runtime.session import ray_session
    from rapid_dist.stages.knowledge_base import run_append
    from rapid_dist.storage.store import Store

    run, base = _base_to_change(spec_path, out, overrides)
    with ray_session(run.spec.runtime):
        manifest = run_append(run.spec, Store(images), _pretrain_of(run), base)
    _print_base(base, manifest, as_json)


@kb.command()
@_run_options
@click.option("--max-rows", type=int, help="Largest shard that may come of it; default twice the largest now.")
@click.option("--drop-old", is_flag=True, help="Delete earlier versions and what only they name; no run may read them.")
@json_option
@translated
def compact(
    spec_path: str, out: str, overrides: tuple[str, ...], max_rows: int | None, drop_old: bool, as_json: bool
) -> None:
    """Merge small shards into bigger ones; earlier versions stay until --drop-old."""
    from rapid_dist.knowledge_base.versions import drop_old_versions
    from rapid_dist.runtime.session import ray_session
    from rapid_dist.stages.knowledge_base import run_compact

    run, base = _base_to_change(spec_path, out, overrides)
    with ray_session(run.spec.runtime):
        manifest = run_compact(run.spec, _pretrain_of(run), base, max_rows=max_rows)
    if drop_old:
        drop_old_versions(base)
    _print_base(base, manifest, as_json)


def _base_to_change(spec_path: str, out: str, overrides: tuple[str, ...]) -> tuple[Any, Any]:
    from rapid_dist.errors import SpecError

    run = _open_run(spec_path, out, overrides)
    if run.knowledge_base is None:
        raise SpecError("schedule.split_step equals num_train_timesteps, so this run has no knowledge base")
    return run, run.knowledge_base


def _pretrain_of(run: Any) -> Any:
    from rapid_dist import layout

    return run.store(layout.PRETRAIN)


@kb.command()
@click.argument("uri", metavar="BASE")
@json_option
@translated
def stats(uri: str, as_json: bool) -> None:
    """Print version, counts, sizes and measured recall of the base (or the run's base) in folder BASE."""
    _print_base(*_open_base(uri), as_json)


@kb.command()
@click.argument("uri", metavar="BASE")
@json_option
@translated
def verify(uri: str, as_json: bool) -> None:
    """Read every file of BASE against its digest, count its rows and measure recall anew.

    Damaged files are named, with exit code 2, and noted: the next build makes only those anew.
    """
    from rapid_dist.errors import ArtifactError
    from rapid_dist.knowledge_base.versions import measure_base, verify_files

    store, manifest = _open_base(uri)
    damaged = verify_files(store, manifest)
    if damaged:
        if as_json:
            click.echo(json.dumps({"verified": False, "damaged": sorted(damaged)}))
        raise ArtifactError(
            f"{store.uri} has {len(damaged)} damaged files: {', '.join(sorted(damaged))}; run `rapid-dist kb build` "
            "or `run` again and only they are made anew"
        )
    measured = measure_base(store, manifest)
    if as_json:
        click.echo(json.dumps({"verified": True, "damaged": [], "num_files": len(manifest.files), **measured}))
        return
    click.echo(f"{len(manifest.files)} files match their digests")
    click.echo(f"{measured['num_trajectories']} trajectories in {measured['num_shards']} shards, as the manifest says")
    _print_recall({k: v for k, v in measured.items() if k.startswith("recall_at_")}, measured["routing"])


@kb.command()
@click.argument("image", metavar="IMAGE", type=click.Path(exists=False))
@click.option("--base", "uri", required=True, metavar="URI", help="Folder of a run with a knowledge base.")
@click.option("--png", default="neighbors.png", show_default=True, metavar="PATH", help="Where the picture goes.")
@click.option("--num-neighbors", type=int, default=8, show_default=True, help="How many trajectories to show.")
@click.option("--images", multiple=True, metavar="URI", help="Further public datasets that were appended.")
@json_option
@translated
def query(image: str, uri: str, png: str, num_neighbors: int, images: tuple[str, ...], as_json: bool) -> None:
    """Write a PNG of IMAGE, the public images of its nearest trajectories, and the values decoded.

    A row is one image: its pixels, and what its latent decodes to where the private model takes over. If IMAGE is
    private, so are the picture and what is printed.
    """
    from rapid_dist.errors import InputError
    from rapid_dist.knowledge_base.picture import query_image
    from rapid_dist.run import Run
    from rapid_dist.storage.store import Store

    run = Run.open(uri)
    if not Path(image).is_file():
        raise InputError(f"image {image} does not exist; give the path of a PNG or JPEG file")
    store, manifest = _open_base(uri)
    picture, found = query_image(
        run.spec,
        Path(image).read_bytes(),
        pretrain=_pretrain_of(run),
        knowledge_base=store,
        base=manifest,
        datasets=[run.public, *map(Store, images)],
        num_neighbors=num_neighbors,
    )
    target = Path(png)
    Store(target.resolve().parent).write_bytes(target.name, picture)
    if as_json:
        click.echo(json.dumps({"png": str(target), "neighbors": [vars(one) for one in found]}))
        return
    for rank, one in enumerate(found, start=1):
        click.echo(f"{rank:>3}  distance {one.distance:.4f}  class {one.label:>3}  {one.input} image {one.example_id}")
    click.echo(f"picture  {target}")
