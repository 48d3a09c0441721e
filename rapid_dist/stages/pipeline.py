"""The stages of a run in their order: where each finds its inputs, and what is told of it while it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rapid_dist import layout
from rapid_dist.errors import ArtifactError, RapidDistError, StorageError
from rapid_dist.metrics.ledger_watch import watched_ledger
from rapid_dist.metrics.recorder import current_recorder, stage_shown
from rapid_dist.specs import RunSpec, parse_spec
from rapid_dist.storage.digest import differing_keys
from rapid_dist.storage.manifest import open_artifact, read_manifest
from rapid_dist.storage.stage import BEGUN, OwnerLog
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import format_seconds, headed, say

if TYPE_CHECKING:
    from rapid_dist.stages.preflight import Role


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """A finished stage: its manifest's folder, how long it took in all, and whether this call had anything to do.

    seconds: for the owner alone, since stages read private data; None where this run does not know.
    """

    stage: str
    uri: str
    seconds: float | None
    skipped: bool


def saved_spec(out: Store) -> RunSpec | None:
    """Returns the spec that a run's folder holds, None where it holds none."""
    if not out.exists(layout.SPEC):
        return None
    return parse_spec(out.read_bytes(layout.SPEC).decode(), source=f"{out.uri}/{layout.SPEC}")


def no_run(out: Store) -> ArtifactError:
    """Returns the error for a folder that is no run's."""
    return ArtifactError(f"{out.uri} has no {layout.SPEC}; give the folder of a run")


class RunFolder:
    """One run's folder: its spec, where its inputs and results lie, and the log of how long its stages took."""

    def __init__(self, spec: RunSpec, out: Store):
        self.spec, self.out = spec, out
        self.owner_log = OwnerLog(out)

    def store(self, relative: str) -> Store:
        """The store of a sub-folder, by its name in layout."""
        return self.out.child(relative)

    def save_spec(self) -> None:
        """Saves the resolved spec before anything runs. Raises ArtifactError for a folder of another spec."""
        saved = saved_spec(self.out)
        if saved is not None:
            if saved.digest == self.spec.digest:
                return
            if self._has_begun():
                raise self._of_another_spec(saved)
        self.out.write_bytes(layout.SPEC, self.spec.to_yaml().encode())

    def require_saved_spec(self) -> None:
        """Raises ArtifactError unless the folder holds a run of this very spec."""
        saved = saved_spec(self.out)
        if saved is None:
            raise no_run(self.out)
        if saved.digest != self.spec.digest:
            raise self._of_another_spec(saved)

    def _of_another_spec(self, saved: RunSpec) -> ArtifactError:
        changes = differing_keys(saved.meaning(), self.spec.meaning())
        return ArtifactError(
            f"{self.out.uri} holds a run of another spec ({'; '.join(changes[:3])}"
            f"{' and more' if len(changes) > 3 else ''}); use another --out folder, or the first spec"
        )

    def _has_begun(self) -> bool:
        """Whether any stage wrote something; until then a mistaken spec may be corrected in place."""
        stores = [self.store(folder) for folder in layout.FOLDERS]
        return any(store.list_files() for store in stores)

    def _dataset(self, source: str, folder: str) -> Store:
        """Where a dataset lies: ingested beforehand by the user, or in this run's folder."""
        given = Store(source)
        return given if given.exists("manifest.json") else self.store(folder)

    @property
    def public(self) -> Store:
        """The dataset of public images."""
        return self._dataset(self.spec.data.public, layout.PUBLIC_IMAGES)

    @property
    def private(self) -> Store:
        """The dataset of private images."""
        return self._dataset(self.spec.data.private, layout.PRIVATE_IMAGES)

    @property
    def ledger(self) -> Store:
        """The ledger of the private dataset, which this run shares with every other use of it."""
        return self.private.child(layout.LEDGER)

    @property
    def test(self) -> Store | None:
        """The dataset of test images, None where the spec names none."""
        return None if self.spec.data.test is None else self._dataset(self.spec.data.test, layout.TEST_IMAGES)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The sets of images that this run reads, public ones first: private ones are shaped like them."""
        from rapid_dist.stages.preflight import Role

        data = self.spec.data
        stores = {"public": self.public, "private": self.private, "test": self.test}
        return tuple(
            Role(
                name=name,
                source=getattr(data, name),
                store=store,
                reading=getattr(data.reading, name),
                class_names=data.public_class_names if name == "public" else data.class_names,
                asks_for_labels=name != "public" and data.num_classes > 0,
            )
            for name, store in stores.items()
            if store is not None
        )

    def check(self, *, trains: bool = True) -> None:
        """Looks at everything that can be known to fail before the first stage; charges and writes nothing.

        Args:
            trains: Whether the train stage is among those to run.

        Raises:
            RapidDistError: A source, a dataset, the machine or the budget does not fit the spec.
        """
        from rapid_dist.stages.preflight import check_run

        trains = trains and read_manifest(self.store(layout.TRAIN)) is None
        check_run(self.spec, self.roles, self.ledger, self.store(layout.TRAIN), trains=trains)

    @property
    def knowledge_base(self) -> Store | None:
        """The knowledge base, None where nothing is retrieved."""
        return self.store(layout.KNOWLEDGE_BASE) if self.spec.uses_retrieval else None


@contextmanager
def _told(
    run: RunFolder, name: str, store: Store, results: list[StageResult], *, is_whole: bool = True
) -> Iterator[None]:
    """Says that a stage begins or is skipped, keeps its result, and how long it took in the owner's log.

    is_whole: False when a finished one lost files.
    """
    skipped = read_manifest(store) is not None and is_whole
    if not skipped:
        say(headed(name, "begins"))
    started = time.monotonic()
    try:
        with stage_shown(current_recorder(), name):
            yield
    except (KeyboardInterrupt, RapidDistError) as error:
        if not skipped and not isinstance(error, StorageError) and store.exists(BEGUN):  # it will be resumed
            run.owner_log.add(name, time.monotonic() - started)
        raise
    if skipped:
        say(headed(name, f"skipped: {store.uri} already matches its inputs and spec"))
    else:
        seconds = time.monotonic() - started
        run.owner_log.add(name, seconds)
        say(headed(name, f"done in {format_seconds(seconds)}: {store.uri}"))
    seconds_in_all = run.owner_log.of(name, read_manifest(store))
    results.append(StageResult(stage=name, uri=store.uri, seconds=seconds_in_all, skipped=skipped))


def _ingest(run: RunFolder) -> list[StageResult]:
    return ingest_datasets(run, ("public", "private", "test"))


def ingest_datasets(run: RunFolder, names: tuple[str, ...]) -> list[StageResult]:
    """Ingests those of a run's data sets that are named and given; finished ones are skipped."""
    from rapid_dist.ingest.provenance import refuse_shared_sources
    from rapid_dist.stages.ingest import run_ingest
    from rapid_dist.stages.preflight import check_datasets

    refuse_shared_sources(**{role.name: role.source for role in run.roles})
    data, results = run.spec.data, []
    shape = {"image_size": data.image_size, "num_channels": data.num_channels, "skip_corrupt": data.skip_corrupt}
    of_public = {"public": {}, "private": {"drop_equal_to": run.public}, "test": {"like": run.public}}
    roles = [role for role in run.roles if role.name in names]
    for role in roles:
        with _told(run, f"ingest {role.name}", role.store, results):
            if Store(role.source).uri == role.store.uri:
                open_artifact(role.store, stage="ingest", privacy_classes=role.privacy_classes)
                continue
            run_ingest(
                role.source,
                role.store,
                privacy_class="private" if role.is_private else "public",
                class_names=role.class_names,
                num_classes=data.num_classes if role.asks_for_labels else 0,
                reading=role.reading,
                **shape,
                **of_public[role.name],
            )
    check_datasets(run.spec, tuple(roles))
    return results


def _pretrain(run: RunFolder) -> list[StageResult]:
    from rapid_dist.stages.pretrain import run_pretrain

    results: list[StageResult] = []
    store = run.store(layout.PRETRAIN)
    with _told(run, "pretrain", store, results):
        run_pretrain(run.spec, run.public, store)
    return results


def _build_knowledge_base(run: RunFolder) -> list[StageResult]:
    from rapid_dist.knowledge_base.versions import damaged_files
    from rapid_dist.stages.knowledge_base import run_build_knowledge_base

    results: list[StageResult] = []
    if run.knowledge_base is None:
        say(headed("build-kb", "not needed: nothing is retrieved (by schedule.split_step or sampling.starts)"))
        return results
    finished = read_manifest(run.knowledge_base)
    is_whole = finished is None or not damaged_files(run.knowledge_base, finished)
    with _told(run, "build-kb", run.knowledge_base, results, is_whole=is_whole):
        run_build_knowledge_base(run.spec, run.public, run.store(layout.PRETRAIN), run.knowledge_base)
    return results


def _train(run: RunFolder) -> list[StageResult]:
    from rapid_dist.stages.preflight import check_datasets
    from rapid_dist.stages.train import run_train

    results: list[StageResult] = []
    check_datasets(run.spec, run.roles)
    store = run.store(layout.TRAIN)
    with _told(run, "train", store, results), watched_ledger(run.ledger, current_recorder()):
        run_train(
            run.spec,
            run.private,
            run.store(layout.PRETRAIN),
            run.knowledge_base,
            run.ledger,
            store,
        )
    return results


def _sample(run: RunFolder) -> list[StageResult]:
    from rapid_dist.stages.sample import run_sample, run_sample_public_only

    results: list[StageResult] = []
    pretrain, samples, public = (run.store(f) for f in (layout.PRETRAIN, layout.SAMPLES, layout.PUBLIC_SAMPLES))
    with _told(run, "sample", samples, results):
        run_sample(run.spec, pretrain, run.knowledge_base, run.store(layout.TRAIN), samples)
    if run.spec.pretrain.steps == 0:
        say(headed("sample public-only", "not possible: pretrain.steps is 0, so there is no public model"))
        return results
    with _told(run, "sample public-only", public, results):
        run_sample_public_only(run.spec, pretrain, public)
    return results


def _evaluate(run: RunFolder) -> list[StageResult]:
    from rapid_dist.stages.evaluate import run_evaluate

    results: list[StageResult] = []
    store = run.store(layout.EVALUATION)
    with _told(run, "evaluate", store, results):
        run_evaluate(
            run.spec,
            samples=run.store(layout.SAMPLES),
            public_samples=run.store(layout.PUBLIC_SAMPLES) if run.spec.pretrain.steps else None,
            private=run.private,
            public=run.public,
            test=run.test,
            out=store,
            stage_seconds=_stage_seconds(run),
        )
    return results


def _stage_seconds(run: RunFolder) -> dict[str, float]:
    """Seconds of the stages finished so far, as far as this run knows them."""
    places = {
        "ingest public": run.public,
        "ingest private": run.private,
        "pretrain": run.store(layout.PRETRAIN),
        "build-kb": run.knowledge_base,
        "train": run.store(layout.TRAIN),
        "sample": run.store(layout.SAMPLES),
        "sample public-only": run.store(layout.PUBLIC_SAMPLES),
    }
    manifests = {name: read_manifest(store) for name, store in places.items() if store is not None}
    known = {name: run.owner_log.of(name, m) for name, m in manifests.items() if m is not None}
    return {name: seconds for name, seconds in known.items() if seconds is not None}


STAGE_FUNCTIONS: dict[str, Callable[[RunFolder], list[StageResult]]] = {
    "ingest": _ingest,
    "pretrain": _pretrain,
    "build-kb": _build_knowledge_base,
    "train": _train,
    "sample": _sample,
    "evaluate": _evaluate,
}
