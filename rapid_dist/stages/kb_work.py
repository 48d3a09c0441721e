"""One operation on a knowledge base in progress: its resumable maps, and what it leaves until it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rapid_dist.knowledge_base.files import (
    CLUSTERS,
    QUERIES,
    ShardRecord,
    named_file,
    plain_records,
    read_table,
    shard_files,
)
from rapid_dist.knowledge_base.tasks import (
    SetPlan,
    make_fitter,
    make_recall_measurer,
    make_shard_builder,
    make_splitter,
    make_trajectory_maker,
)
from rapid_dist.runtime.parts import map_parts
from rapid_dist.runtime.session import available_cpus
from rapid_dist.specs import RunSpec
from rapid_dist.storage.digest import digest_of
from rapid_dist.storage.manifest import FileEntry, Manifest
from rapid_dist.storage.stage import FinishedParts
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import headed, say

WORK = "work"
MAX_SAMPLE_KEYS = 50_000
MIN_PIECE_ROWS = 256  # below this many rows a shard, image parts are taken together


@dataclass(frozen=True, kw_only=True)
class MadeSet:
    """A set of images as trajectories: its files, what was fitted on its sample, and its ids."""

    number: int
    first_id: int
    next_id: int
    num_shards: int
    min_part_rows: int
    files: list[FileEntry]
    fitted: dict[str, FileEntry]

    def fact(self, label: str) -> dict[str, Any]:
        """What the manifest says of the set; label: its name among the manifest's inputs."""
        rows = sum(f.rows for f in self.files)
        ids = {"first_id": self.first_id, "next_id": self.next_id}
        layout = {"num_shards": self.num_shards, "min_part_rows": self.min_part_rows}
        return {"input": label, "rows": rows, **ids, **layout}


def group_parts(files: Sequence[FileEntry], *, min_rows: int) -> list[list[FileEntry]]:
    """Consecutive image parts that hold rows, taken together until each group has min_rows; the last may have fewer."""
    groups: list[list[FileEntry]] = []
    size = min_rows
    for entry in [f for f in files if f.rows]:
        if size >= min_rows:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.rows
    return groups


class BaseWork:
    """Maps of one operation, kept in a folder of its own: a second operation never touches what this one wrote.

    identity: what the operation works from; the same again resumes.
    """

    def __init__(self, spec: RunSpec, out: Store, *, operation: str, identity: Mapping[str, Any]):
        self.spec, self.out = spec, out
        self._folder = f"{WORK}-{operation}-{digest_of(identity)[:12]}"
        self.work = out.child(self._folder)
        self._peak_bytes = 0

    def finish(self) -> None:
        """Puts away what only this operation needed, and says how much memory it took."""
        self.out.delete_folder(self._folder)
        if self._peak_bytes:
            say(headed("memory", f"the largest builder process had {self._peak_bytes >> 20} MiB"))

    def map(self, name: str, make_fn: Any, arguments: tuple, count: int, *, keeps_state: bool = False) -> list[dict]:
        """map_parts of this operation; finished parts whose files are gone or cut are done again."""
        parts = FinishedParts(self.work, name)
        finished = parts.load()
        if finished:
            sizes = _Sizes(self.out, self.work)
            for index, result in finished.items():
                if not all(map(sizes.are_right, _entries(result))):
                    parts.forget(index)
        results = map_parts(
            make_fn,
            arguments,
            count,
            store=self.work,
            name=name,
            num_actors=available_cpus() if keeps_state else 1,
            keeps_state=keeps_state,
        )
        self._peak_bytes = max([self._peak_bytes, *(r.get("peak_bytes", 0) for r in results)])
        return results

    def make_set(
        self,
        images: Store,
        source: Manifest,
        pretrain: Store,
        weights: Manifest,
        *,
        number: int,
        first_id: int,
        num_shards: int,
        base: Manifest | None = None,
    ) -> MadeSet:
        """Trajectories of all images of a set, split by shard; base: the version it is appended to, None to begin."""
        draws = self.spec.knowledge_base.num_trajectories_per_image
        total = sum(f.rows for f in source.files) * draws
        num_shards = min(num_shards, total)
        by_cluster = self.spec.knowledge_base.assignment == "cluster"
        fits_clusters = by_cluster and base is None
        plan = SetPlan(
            number=number,
            first_id=first_id,
            num_shards=num_shards,
            sample_every=-(-total // MAX_SAMPLE_KEYS),
            clusters=named_file(base, CLUSTERS) if by_cluster and base is not None else None,
            is_split=not fits_clusters,
        )
        min_part_rows = -(-MIN_PIECE_ROWS * num_shards // draws)
        groups = group_parts(source.files, min_rows=min_part_rows)
        shared = (self.out, self.work)
        made = self.map(
            "trajectories",
            make_trajectory_maker,
            (self.spec, images, groups, pretrain, weights, *shared, plan),
            len(groups),
            keeps_state=True,
        )
        samples = [FileEntry(**r["sample"]) for r in made]
        (fit,) = self.map(
            "fit",
            make_fitter,
            (self.spec, *shared, samples, total, num_shards if fits_clusters else None, base),
            1,
        )
        fitted = {name: FileEntry(**f) for name, f in fit["files"].items()}
        if fits_clusters:
            unsplit = [FileEntry(**r["file"]) for r in made]
            plan = replace(plan, clusters=fitted[CLUSTERS], is_split=True)
            num_shards = fit["num_clusters"]
            split = self.map("split", make_splitter, (self.spec, *shared, unsplit, plan), len(unsplit))
            made = [{**m, **s} for m, s in zip(made, split, strict=True)]
        return MadeSet(
            number=number,
            first_id=first_id,
            next_id=max(r["next_id"] for r in made),
            num_shards=num_shards,
            min_part_rows=min_part_rows,
            files=[FileEntry(**r["file"]) for r in made],
            fitted=fitted,
        )

    def build_shards(
        self, trajectories: Mapping[int, Sequence[FileEntry]], prototypes: FileEntry, records: Sequence[ShardRecord]
    ) -> tuple[list[ShardRecord], list[FileEntry]]:
        """Builds the shards of the records, one task each, and returns those that have rows, with all their files."""
        arguments = (self.spec, self.out, trajectories, prototypes, records)
        results = self.map("shards", make_shard_builder, arguments, len(records))
        built = [record for record, r in zip(records, results, strict=True) if r["rows"]]
        return built, [FileEntry(**f) for r in results for f in r["files"]]

    def describe(
        self,
        base: Manifest,
        *,
        records: Sequence[ShardRecord],
        files: Sequence[FileEntry],
        facts: Mapping[str, Any],
    ) -> Manifest:
        """The manifest of a version with these shards, its counts and its recall, measured one shard at a time."""
        draft = replace(base, files=sorted(files, key=lambda f: f.path))
        rows = [shard.rows.rows for shard in shard_files(draft)]
        facts = {
            **facts,
            "num_shards": len(rows),
            "num_trajectories": sum(rows),
            "largest_shard_rows": max(rows),
            "shards": plain_records(records),
        }
        return replace(draft, facts={**facts, **self._measure_recall(draft, sum(rows))})

    def _measure_recall(self, draft: Manifest, total: int) -> dict[str, Any]:
        from rapid_dist.knowledge_base.neighbors import Neighbors
        from rapid_dist.knowledge_base.versions import NUM_NEIGHBORS, recall_facts

        shards, queries, count = shard_files(draft), named_file(draft, QUERIES), min(NUM_NEIGHBORS, total)
        arguments = (self.spec, self.out, self.work, shards, queries, count)
        results = self.map("recall", make_recall_measurer, arguments, len(shards))

        def answers() -> Iterator[tuple[Neighbors, Neighbors]]:
            for result in results:
                table = read_table(self.work, FileEntry(**result["file"]))
                found, truth = (Neighbors(table[f"{m}_id"], table[f"{m}_distance"]) for m in ("found", "true"))
                yield found, truth

        space = self.spec.knowledge_base.space
        return recall_facts(self.out, draft, answers(), space=space, num_neighbors=count)


class _Sizes:
    """Whether files are there in the size they were written with, by one listing a folder."""

    def __init__(self, *stores: Store):
        self._stores = stores
        self._known: dict[str, list[dict[str, int]]] = {}

    def are_right(self, entry: FileEntry) -> bool:
        folder, _, name = entry.path.rpartition("/")
        if folder not in self._known:
            self._known[folder] = [store.file_sizes(folder) for store in self._stores]
        return any(sizes.get(name) == entry.bytes for sizes in self._known[folder])


def _entries(result: Mapping[str, Any]) -> list[FileEntry]:
    files = result.get("files", [])
    plain = [*(files.values() if isinstance(files, dict) else files)]
    plain += [result[name] for name in ("file", "sample") if name in result]
    return [FileEntry(**f) for f in plain]
