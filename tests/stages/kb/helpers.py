"""What tests of the knowledge base share: small public datasets and models, and maps that run in this process."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from rapid_dist.knowledge_base.files import open_knowledge_base
from rapid_dist.knowledge_base.versions import open_newest
from rapid_dist.models.public import build_public_models, save_weights
from rapid_dist.specs import DataSpec, DenoiserSpec, ExtractorSpec, PrivacySpec, RunSpec, ScheduleSpec
from rapid_dist.storage.manifest import Manifest, write_manifest
from rapid_dist.storage.stage import FinishedParts
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, ImageTable, write_images

SHAPE, NUM_LABELS = (1, 8, 8), 4
SPEC = RunSpec(
    data=DataSpec(private="p", public="q"),
    privacy=PrivacySpec(target_epsilon=1.0, target_delta=1e-4, sample_rate=0.1, nominal_size=100),
    denoiser=DenoiserSpec(width=16, num_blocks=1, embedding_dim=8),
    extractor=ExtractorSpec(feature_dim=8, width=16),
    schedule=ScheduleSpec(num_train_timesteps=50, split_step=30, query_step=40),
)


def spec_with(**knowledge_base) -> RunSpec:
    settings = {"num_shards": 3, "num_prototypes": 5, "num_trajectories_per_image": 2, "M": 8, "ef_construction": 60}
    return replace(SPEC, knowledge_base=replace(SPEC.knowledge_base, **{**settings, **knowledge_base}))


def write_dataset(
    path, *, parts: int, rows: int, seed: int = 0, first_id: int = 0, privacy_class="public", shape=SHAPE
) -> Store:
    """An ingested dataset: a bright stripe tells the class."""
    store, files, rng = Store(path), [], np.random.default_rng(seed)
    for part in range(parts):
        label = rng.integers(0, NUM_LABELS, rows)
        image = rng.integers(0, 60, (rows, *shape))
        for i, y in enumerate(label):
            image[i, :, 2 * y : 2 * y + 2] += 150
        ids = first_id + np.arange(part * rows, (part + 1) * rows)
        table = ImageTable(example_id=ids, image=image.astype(np.uint8), label=label.astype(np.int32))
        said = {"stage": INGEST, "privacy_class": privacy_class}
        files.append(write_images(store, f"parts/part-{part:05d}.parquet", table, **said))
    facts = {"image_shape": list(shape), "num_labels": NUM_LABELS}
    manifest = Manifest(stage=INGEST, privacy_class=privacy_class, spec={}, inputs={}, files=files, facts=facts)
    write_manifest(store, manifest)
    return store


def write_pretrain(path, spec: RunSpec = SPEC) -> Store:
    """Public models that were never trained, but moved so that every layer takes part."""
    store, generator = Store(path), torch.Generator().manual_seed(5)
    models = build_public_models(spec, image_shape=SHAPE, num_public_classes=NUM_LABELS)
    with torch.no_grad():
        for p in models.denoiser.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    names = ("autoencoder", "denoiser", "extractor")
    files = [save_weights(store, f"{name}.safetensors", getattr(models, name).state_dict()) for name in names]
    facts = {"image_shape": list(SHAPE), "num_public_classes": NUM_LABELS}
    write_manifest(
        store, Manifest(stage="pretrain", privacy_class="public", spec={}, inputs={}, files=files, facts=facts)
    )
    return store


class SerialMaps:
    """Stands in for map_parts: the same resuming, without Ray. calls: how often each map did each part."""

    def __init__(self):
        self.calls: Counter = Counter()

    def __call__(self, make_fn, arguments, num_parts, *, store, name, num_actors, keeps_state=True):
        parts = FinishedParts(store, name)
        results = {i: r for i, r in parts.load().items() if i < num_parts}
        missing = [i for i in range(num_parts) if i not in results]
        fn = make_fn(*arguments) if missing else None
        for i in missing:
            self.calls[name, i] += 1
            self.before(name, i)
            results[i] = json.loads(json.dumps(fn(i)))
            parts.add(i, results[i])
        return [results[i] for i in range(num_parts)]

    def before(self, name: str, index: int) -> None:
        """For tests that interfere."""

    def install(self, monkeypatch=None) -> SerialMaps:
        """Takes the place of Ray's map, for the rest of the test or of the process."""
        import rapid_dist.stages.kb_work as kb_work

        for name, value in (("map_parts", self), ("available_cpus", lambda: 1)):
            if monkeypatch is None:
                setattr(kb_work, name, value)
            else:
                monkeypatch.setattr(kb_work, name, value)
        return self


def rows_of(store: Store, manifest: Manifest | None = None) -> dict[int, tuple]:
    """Trajectory id -> (key, value, label, prototype, shard) of a version, the newest by default."""
    manifest = manifest or open_newest(store)
    spec = spec_with(method="exact")
    shards = open_knowledge_base(spec.knowledge_base, store, manifest).shards
    return {
        int(i): (k.tobytes(), v.tobytes(), int(y), int(p), position)
        for position, s in enumerate(shards)
        for i, k, v, y, p in zip(s.trajectory_id, s.keys, s.value, s.label, s.prototype, strict=True)
    }
