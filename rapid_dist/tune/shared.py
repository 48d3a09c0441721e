"""Public models and knowledge bases that trials share: made once a content, found again by what they depend on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rapid_dist.specs import RunSpec
from rapid_dist.stages.kb_revalue import run_revalue_knowledge_base
from rapid_dist.stages.knowledge_base import base_spec, run_build_knowledge_base
from rapid_dist.stages.pretrain import pretrain_spec, run_pretrain
from rapid_dist.storage.digest import digest_of
from rapid_dist.storage.manifest import Manifest, read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import format_seconds, headed, say

MODELS, BASE = "public models", "knowledge base"


@dataclass(kw_only=True)
class Reuse:
    """How often something was wanted, made and made in part, and what making it took."""

    wanted: int = 0
    made: int = 0
    made_in_part: int = 0
    seconds_of_one: float = 0.0
    seconds_spent: float = 0.0

    @property
    def seconds_saved(self) -> float:
        """Against making all of it for every trial; the first whole making is the measure."""
        return max(0.0, self.wanted * self.seconds_of_one - self.seconds_spent)


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """What a trial trains from."""

    pretrain: Store
    knowledge_base: Store | None


@dataclass
class SharedArtefacts:
    """Artefacts under one folder, each in a sub-folder named by the digest of what it depends on; thread-safe.

    Public models of another query_step take over autoencoder and denoiser and train the extractor alone; a base of
    another split_step takes over keys and graphs and computes values alone.
    """

    public: Store
    folder: Store
    reuse: dict[str, Reuse] = field(default_factory=lambda: {MODELS: Reuse(), BASE: Reuse()})
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _made: dict[str, list[tuple[Store, dict[str, Any]]]] = field(default_factory=lambda: {MODELS: [], BASE: []})

    def of(self, spec: RunSpec) -> Artefacts:
        """Makes or finds what a run of this spec trains from."""
        pretrain = self._shared(MODELS, pretrain_spec(spec), lambda out: self._pretrain(spec, out))
        if not spec.uses_retrieval:
            return Artefacts(pretrain=pretrain, knowledge_base=None)
        parts = {**base_spec(spec), "pretrain": read_manifest(pretrain).digest}
        base = self._shared(BASE, parts, lambda out: self._build(spec, pretrain, parts, out))
        return Artefacts(pretrain=pretrain, knowledge_base=base)

    def summary(self) -> list[dict[str, Any]]:
        """What was reused how often, whole or in part, and the seconds that saved."""
        return [
            {"what": what, "times": entry.wanted - entry.made, "seconds_saved": entry.seconds_saved}
            for what, entry in self.reuse.items()
        ]

    def _shared(self, what: str, parts: dict[str, Any], make: Callable[[Store], tuple[Manifest, bool]]) -> Store:
        digest = digest_of(parts)[:16]
        out = self.folder.child(f"{what.replace(' ', '-')}-{digest}")
        with self._guard:
            lock = self._locks.setdefault(digest, threading.Lock())
        with lock:
            entry = self.reuse[what]
            entry.wanted += 1
            finished = read_manifest(out)
            if finished is None:
                self._make(what, entry, out, make)
            elif not entry.seconds_of_one:
                entry.seconds_of_one = finished.seconds or 0.0
            if all(store.uri != out.uri for store, _ in self._made[what]):
                self._made[what].append((out, parts))
        return out

    def _make(self, what: str, entry: Reuse, out: Store, make: Callable[[Store], tuple[Manifest, bool]]) -> None:
        say(headed(what, f"begins: {out.uri}"))
        started = time.monotonic()
        _, is_whole = make(out)
        seconds = time.monotonic() - started
        entry.seconds_spent += seconds
        if is_whole:
            entry.made += 1
            entry.seconds_of_one = entry.seconds_of_one or seconds
        else:
            entry.made_in_part += 1
        say(headed(what, f"{'made' if is_whole else 'made in part, the rest reused'} in {format_seconds(seconds)}"))

    def _pretrain(self, spec: RunSpec, out: Store) -> tuple[Manifest, bool]:
        mine = pretrain_spec(spec)
        like = self._like(MODELS, mine, _without_query)
        if like is not None:
            for phase in ("autoencoder", "denoiser"):
                _copy_folder(like, out, f"checkpoints/{phase}")
        return run_pretrain(spec, self.public, out), like is None

    def _build(self, spec: RunSpec, pretrain: Store, parts: dict[str, Any], out: Store) -> tuple[Manifest, bool]:
        like = self._like(BASE, parts, _without_split)
        if like is None:
            return run_build_knowledge_base(spec, self.public, pretrain, out), True
        return run_revalue_knowledge_base(spec, self.public, pretrain, like, out), False

    def _like(self, what: str, parts: dict[str, Any], essence: Callable[[dict[str, Any]], Any]) -> Store | None:
        """One made earlier that agrees in all but what can be made anew cheaply."""
        return next((store for store, other in self._made[what] if essence(other) == essence(parts)), None)


def _without_query(parts: dict[str, Any]) -> dict[str, Any]:
    schedule = {k: v for k, v in parts["schedule"].items() if k != "query_step"}
    return {**{k: v for k, v in parts.items() if k != "extractor"}, "schedule": schedule}


def _without_split(parts: dict[str, Any]) -> dict[str, Any]:
    return {**parts, "schedule": {k: v for k, v in parts["schedule"].items() if k != "split_step"}}


def _copy_folder(source: Store, target: Store, folder: str) -> None:
    for name in source.list_files(folder):
        target.write_bytes(f"{folder}/{name}", source.read_bytes(f"{folder}/{name}"))
