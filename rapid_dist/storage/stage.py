"""A stage's folder: begin, skip, resume or refuse it; its finished parts; the owner's log of how long it took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rapid_dist import layout
from rapid_dist.errors import ArtifactError
from rapid_dist.storage.digest import differing_keys, digest_of
from rapid_dist.storage.manifest import FileEntry, Manifest, read_manifest, write_manifest
from rapid_dist.storage.store import Store

BEGUN = "begun.json"


class StageFolder:
    """One stage's output folder. `finished` is its manifest when there is nothing left to do, else None."""

    def __init__(
        self,
        store: Store,
        *,
        stage: str,
        spec: Mapping[str, Any],
        inputs: Mapping[str, str],
        disposable: Sequence[str] = (),
    ):
        """disposable: sub-folders that an unfinished stage may lose to another spec; none means it is refused."""
        self.store, self.stage = store, stage
        self.spec, self.inputs, self.disposable = dict(spec), dict(inputs), tuple(disposable)
        self._started = time.monotonic()
        self.finished = self._check_finished()
        if self.finished is None:
            self._check_begun()

    def _check_finished(self) -> Manifest | None:
        manifest = read_manifest(self.store)
        if manifest is not None:
            self._refuse_other(manifest.stage, manifest.spec, manifest.inputs)
        return manifest

    def _check_begun(self) -> None:
        mine = {"stage": self.stage, "spec": self.spec, "inputs": self.inputs}
        if self.store.exists(BEGUN):
            begun = json.loads(self.store.read_bytes(BEGUN))
            try:
                self._refuse_other(begun["stage"], begun["spec"], begun["inputs"])
                return
            except ArtifactError:
                if not self.disposable or begun["stage"] != self.stage:
                    raise
            for relative in self.disposable:
                self.store.delete_folder(relative)
        self.store.write_bytes(BEGUN, json.dumps(mine, indent=1).encode())

    def _refuse_other(self, stage: str, spec: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        if stage != self.stage:
            raise ArtifactError(f"{self.store.uri} holds stage {stage!r}, not {self.stage!r}; use another folder")
        plain = json.loads(json.dumps(self.spec))
        if digest_of(spec) != digest_of(plain):
            changes = differing_keys(dict(spec), plain)
            raise ArtifactError(
                f"{self.store.uri} was made with another spec ({'; '.join(changes[:3])}); "
                "use another --out folder, or the first spec"
            )
        if dict(inputs) != self.inputs:
            changed = sorted(k for k in {*inputs, *self.inputs} if inputs.get(k) != self.inputs.get(k))
            raise ArtifactError(
                f"{self.store.uri} was made from other inputs ({', '.join(changed)} changed); use another --out folder"
            )

    def finish(
        self,
        *,
        privacy_class: str,
        files: Sequence[FileEntry],
        facts: Mapping[str, Any] | None = None,
        not_private_reasons: Sequence[str] = (),
    ) -> Manifest:
        """Writes the manifest, last of all."""
        manifest = Manifest(
            stage=self.stage,
            privacy_class=privacy_class,
            spec=self.spec,
            inputs=self.inputs,
            files=sorted(files, key=lambda f: f.path),
            facts=dict(facts or {}),
            not_private_reasons=tuple(not_private_reasons),
            seconds=self.seconds,
        )
        write_manifest(self.store, manifest)
        self.forget_begun()
        return manifest

    @property
    def seconds(self) -> float:
        """Since this was made."""
        return round(time.monotonic() - self._started, 3)

    def forget_begun(self) -> None:
        """For a stage that writes its manifest in another way than finish; call it once that is done."""
        self.store.delete(BEGUN)


class FinishedParts:
    """Results of finished parts, one small JSON file each, kept until the manifest is written."""

    def __init__(self, store: Store, name: str):
        self.store, self.folder = store, f"progress-{name}"

    def load(self) -> dict[int, dict[str, Any]]:
        """Part index -> result, for all parts finished so far."""
        found = {}
        for file in self.store.list_files(self.folder):
            if file.endswith(".json"):
                found[int(file.removesuffix(".json"))] = json.loads(self.store.read_bytes(f"{self.folder}/{file}"))
        return found

    def add(self, index: int, result: dict[str, Any]) -> None:
        """Marks a part as finished; its files must already be written."""
        self.store.write_bytes(f"{self.folder}/{index:06d}.json", json.dumps(result).encode())

    def forget(self, index: int) -> None:
        """Lets a part be done again."""
        self.store.delete(f"{self.folder}/{index:06d}.json")

    def clear(self) -> None:
        """Forgets all of it, once the manifest is written."""
        self.store.delete_folder(self.folder)


def map_serially(
    make_fn: Callable[..., Callable[[int], dict[str, Any]]],
    arguments: tuple[Any, ...],
    num_parts: int,
    *,
    store: Store,
    name: str,
    **_: Any,
) -> list[dict[str, Any]]:
    """Returns fn(0) .. fn(num_parts - 1), fn = make_fn(*arguments), one after the other in this process.

    It resumes as the map on Ray does; settings of that map are accepted and mean nothing here.
    """
    finished = FinishedParts(store, name)
    results = {i: r for i, r in finished.load().items() if i < num_parts}
    missing = [i for i in range(num_parts) if i not in results]
    fn = make_fn(*arguments) if missing else None
    for index in missing:
        results[index] = json.loads(json.dumps(fn(index)))
        finished.add(index, results[index])
    return [results[i] for i in range(num_parts)]


PRIVACY_CLASS = "private"


class OwnerLog:
    """Seconds by stage in one small file of a run's folder. One process at a time writes it.

    Wall time grows with the private records that a stage read, to the single large scan. So it is no part of what is
    released: manifests of class dp hold none (artifacts.manifest), and the shareable report none (evaluation).
    """

    def __init__(self, run: Store):
        self._run = run

    def seconds(self) -> dict[str, float]:
        """Stage -> seconds, over all calls that worked on it. Raises ArtifactError when the file is no such log."""
        if not self._run.exists(layout.OWNER_LOG):
            return {}
        data = self._run.read_bytes(layout.OWNER_LOG)
        try:
            plain = json.loads(data)
            return {str(stage): float(seconds) for stage, seconds in plain["seconds"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ArtifactError(
                f"{self._run.uri_of(layout.OWNER_LOG)} is not a log of this program; remove it: nothing but the times "
                "in reports depends on it"
            ) from None

    def add(self, stage: str, seconds: float) -> None:
        """Adds what one call took to its stage: a stage that was cut off and resumed took both times."""
        known = self.seconds()
        known[stage] = round(known.get(stage, 0.0) + seconds, 3)
        plain = {"privacy_class": PRIVACY_CLASS, "seconds": known}
        self._run.write_bytes(layout.OWNER_LOG, json.dumps(plain, indent=1).encode())

    def of(self, stage: str, manifest: Manifest | None) -> float | None:
        """How long a stage took: as logged here, else as its manifest says, else None.

        A data set that was ingested elsewhere is not in this log but its manifest, which is not of class dp, says it.
        A winner that a study trained has neither.
        """
        logged = self.seconds().get(stage)
        if logged is None and manifest is not None:
            logged = manifest.seconds
        return None if logged is None else round(logged, 1)
