"""Several methods on the same data, each within the same epsilon, in one table.

Every run has the whole budget and a ledger of its own, as if it were the only one: that is what a table of methods
compares. Publishing the results of several rows of one private set costs the sum of what they spent, which the table
says. Public models that two rows share, at other epsilons, are made once.

>>> plan = comparison(("statistics", "rapid"), (1.0,), overrides=["data.private=p", "data.public=q"])
>>> [row.folder for row in plan]
['statistics-eps-1-seed-0', 'rapid-eps-1-seed-0']
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rapid_dist import layout
from rapid_dist.errors import SpecError
from rapid_dist.evaluation.wording import format_epsilon, format_percent
from rapid_dist.recipes import recipe_names
from rapid_dist.run import Run
from rapid_dist.specs import RunSpec, load_spec
from rapid_dist.stages.pipeline import ingest_datasets
from rapid_dist.stages.pretrain import pretrain_spec
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import headed, say

COMPARE = "compare"
_PRIVATE = "private"  # as in a run's folder: what lies there stays with the owner
_SHARED_SOURCES = {"public": layout.PUBLIC_IMAGES, "test": layout.TEST_IMAGES}


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """One run to make: the recipe it follows, the epsilon it may spend, its seed, its spec and its folder's name."""

    recipe: str
    epsilon: float
    seed: int
    spec: RunSpec
    folder: str


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """What a run came to.

    Attributes:
        spent_epsilon: What its ledger says, at `delta`.
        accuracy: Of a classifier trained on synthetic images and tested on real ones; low and high bound it with 95%.
        worst_class: The least accuracy of a class.
        fid: Frechet distance of the synthetic images in features of a public classifier, of this run's seed.
        real: Accuracy of a classifier trained on as many real images; public_only: with the public model's images.
        minutes: What all its stages but evaluation took; reused public models count as they took when made.
    """

    recipe: str
    epsilon: float
    seed: int
    folder: str
    spent_epsilon: float
    delta: float
    accuracy: float | None
    low: float | None
    high: float | None
    worst_class: float | None
    fid: float | None
    recall: float | None
    real: float | None
    public_only: float | None
    minutes: float


def comparison(
    recipes: Sequence[str], epsilons: Sequence[float], *, seeds: Sequence[int] = (0,), overrides: Sequence[str] = ()
) -> tuple[PlannedRow, ...]:
    """Returns the runs of a comparison, recipe by recipe; nothing is run.

    Args:
        recipes: Names of recipes, or paths of specs.
        epsilons: What each run may spend.
        seeds: A run for each, which seeds pretraining, training, sampling and evaluation.
        overrides: Lines section.key=value that every run takes.

    Raises:
        SpecError: A recipe or epsilon is named twice, or a spec does not hold with the overrides.
        InputError: There is no such recipe or file.
    """
    for name, values in (("recipe", recipes), ("epsilon", epsilons), ("seed", seeds)):
        if not values or len(set(values)) < len(values):
            raise SpecError(f"got {name} {', '.join(map(str, values)) or 'none'}; expected one or more, each once")
    rows = []
    for recipe in recipes:
        for epsilon in epsilons:
            for seed in seeds:
                own = [f"{section}.seed={seed}" for section in ("pretrain", "training", "sampling", "evaluation")]
                spec = load_spec(recipe, overrides=[*overrides, f"privacy.target_epsilon={epsilon:g}", *own])
                stem = recipe if recipe in recipe_names() else recipe.rpartition("/")[2].removesuffix(".yaml")
                folder = f"{stem}-eps-{epsilon:g}-seed-{seed}"
                rows.append(PlannedRow(recipe=stem, epsilon=epsilon, seed=seed, spec=spec, folder=folder))
    if len({row.folder for row in rows}) < len(rows):
        raise SpecError("two recipes have the same file name; give one of them another, since it names the row")
    return tuple(rows)


def run_comparison(rows: Sequence[PlannedRow], out: Store) -> list[ComparedRow]:
    """Runs every row in a folder of its own under `out`, and writes private/comparison.json and .md there.

    These are the owner's: most of their figures come from private images without noise. A finished row is skipped, an
    interrupted one resumes.

    Raises:
        RapidDistError: As a run does; rows that are finished stay.
    """
    shared = _shared_sources(rows[0], out)
    done: list[tuple[PlannedRow, Run]] = []
    answers: list[ComparedRow] = []
    for number, row in enumerate(rows, start=1):
        say(headed(COMPARE, f"{row.folder}, run {number} of {len(rows)}"))
        run = Run(row.spec, out.child(row.folder), overrides=shared)
        _take_public_models(row, run, done)
        run()
        done.append((row, run))
        answers.append(_compared(row, run.report()))
        _write(answers, out)
    return answers


def _shared_sources(row: PlannedRow, out: Store) -> dict[str, str]:
    """Ingests the public and the test images once, and returns the settings by which every run uses them."""
    whole = Run(row.spec, out)
    whole.check(trains=False)
    ingest_datasets(whole, tuple(_SHARED_SOURCES))
    given = {name: getattr(row.spec.data, name) for name in _SHARED_SOURCES}
    return {
        f"data.{name}": (whole.public if name == "public" else whole.test).uri
        for name, source in given.items()
        if source is not None
    }


def _take_public_models(row: PlannedRow, run: Run, done: Sequence[tuple[PlannedRow, Run]]) -> None:
    """Takes over public models of an earlier run that trained the same, and the knowledge base of the same recipe."""
    for other, earlier in done:
        if pretrain_spec(other.spec) != pretrain_spec(row.spec):
            continue
        _copy_finished(earlier.store(layout.PRETRAIN), run.store(layout.PRETRAIN))
        if (other.recipe, other.seed) == (row.recipe, row.seed):
            _copy_finished(earlier.store(layout.KNOWLEDGE_BASE), run.store(layout.KNOWLEDGE_BASE))
            return


def _copy_finished(source: Store, target: Store) -> None:
    """Copies a finished artefact to where there is none, its manifest last, so that a cut copy is no artefact.

    A copy and no link: the folder of a row is a whole run, which later draws and exports take.
    """
    manifest = read_manifest(source)
    if manifest is None or read_manifest(target) is not None:
        return
    for name in (*(f.path for f in manifest.files), "manifest.json"):
        target.write_bytes(name, source.read_bytes(name))


def _compared(row: PlannedRow, report: dict[str, Any]) -> ComparedRow:
    detail = report["accuracy_detail"]["synthetic"] or {}
    seconds = [s for stage, s in report["stage_seconds"].items() if stage != "evaluate" and s is not None]
    return ComparedRow(
        recipe=row.recipe,
        epsilon=row.epsilon,
        seed=row.seed,
        folder=row.folder,
        spent_epsilon=report["spent_epsilon"],
        delta=report["delta"],
        accuracy=report["accuracy"]["synthetic"],
        low=detail.get("interval_low"),
        high=detail.get("interval_high"),
        worst_class=min(detail["per_class"]) if detail.get("per_class") else None,
        fid=report["fid"],
        recall=report["recall"],
        real=report["accuracy"]["real"],
        public_only=report["accuracy"]["public_only"],
        minutes=sum(seconds) / 60,
    )


def _write(rows: Sequence[ComparedRow], out: Store) -> None:
    out.write_bytes(f"{_PRIVATE}/comparison.json", json.dumps([asdict(row) for row in rows], indent=1).encode())
    out.write_bytes(f"{_PRIVATE}/comparison.md", ("\n".join(table_lines(rows)) + "\n").encode())


def table_lines(rows: Sequence[ComparedRow]) -> list[str]:
    """Returns the table as lines of Markdown: a row a run, best accuracy of an epsilon first, and what it all costs."""

    def percent(value: float | None) -> str:
        return "-" if value is None else format_percent(value)

    lines = [
        "| method | epsilon | seed | accuracy (95% interval) | worst class | FID | recall | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r.epsilon, -(r.accuracy or 0.0))):
        interval = "" if row.low is None else f" ({100 * row.low:.1f} to {100 * row.high:.1f})"
        fid, recall = ("-" if v is None else f"{v:.3g}" for v in (row.fid, row.recall))
        lines.append(
            f"| {row.recipe} | {format_epsilon(row.spent_epsilon)} | {row.seed} | {percent(row.accuracy)}{interval} | "
            f"{percent(row.worst_class)} | {fid} | {recall} | {row.minutes:.1f} |"
        )
    real = [row.real for row in rows if row.real is not None]
    if real:
        lines += ["", f"A classifier trained on as many real images: {percent(max(real))}."]
    deltas, epsilons = sum(row.delta for row in rows), sum(row.spent_epsilon for row in rows)
    lines += [
        "",
        f"Each run is charged alone. Publishing all {len(rows)} of one private set costs up to epsilon "
        f"{format_epsilon(epsilons)} at delta {deltas:.3g} (basic composition). All other figures are the owner's: "
        "they are measured on private images without noise or tell how long it took, and choosing a method by them is "
        "not counted.",
    ]
    return lines
