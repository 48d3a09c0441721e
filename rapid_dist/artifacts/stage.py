"""Begin, skip or refuse a stage's folder: same inputs skip, an unfinished one resumes, another spec is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rapid_dist.artifacts.manifest import (
    FileEntry,
    Manifest,
    read_manifest,
    write_manifest,
)
from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import ArtifactError
from rapid_dist.specs.parsing import differing_keys, digest_of

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
