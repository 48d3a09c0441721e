"""Each worker's records as latents with their retrieved starts: every row a function of its record alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_dist.errors import InputError, PrivacyError
from rapid_dist.knowledge_base.files import shard_files, write_shard
from rapid_dist.knowledge_base.index import build_shard
from rapid_dist.models.public import build_public_models, save_weights
from rapid_dist.privacy.plan import OneWorker
from rapid_dist.specs import DataSpec, DenoiserSpec, ExtractorSpec, PrivacySpec, RunSpec, ScheduleSpec, TrainingSpec
from rapid_dist.storage.manifest import Manifest, read_manifest, write_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, ImageTable, table_arrays, write_images
from rapid_dist.training.private_data import CLASS_WEIGHT, load_private_inputs, start_model

SHAPE, NUM_CLASSES, NUM_PUBLIC, NUM_PROTOTYPES, NUM_RECORDS, NUM_ROWS = (1, 4, 4), 2, 3, 4, 14, 60
LABEL_MAP = {0: 1, 2: 0}
SPEC = RunSpec(
    data=DataSpec(private="p", public="q", num_classes=NUM_CLASSES),
    privacy=PrivacySpec(
        target_epsilon=1.0, target_delta=1e-4, sample_rate=0.1, nominal_size=100, votes_noise_multiplier=1.0
    ),
    denoiser=DenoiserSpec(width=8, num_blocks=1, embedding_dim=4),
    extractor=ExtractorSpec(feature_dim=4, width=8),
    schedule=ScheduleSpec(num_train_timesteps=50, split_step=30, query_step=40),
    training=TrainingSpec(objective="surrogate", class_init="votes"),
)
MAPPED = replace(SPEC, knowledge_base=replace(SPEC.knowledge_base, label_map=LABEL_MAP))


class OneOf:
    """Rank and size alone: loading needs no other worker."""

    def __init__(self, rank: int, world_size: int):
        self.rank, self.world_size = rank, world_size


def finish(store: Store, stage: str, privacy_class: str, files: list, **facts) -> Store:
    manifest = Manifest(stage=stage, privacy_class=privacy_class, spec={}, inputs={}, files=files, facts=facts)
    write_manifest(store, manifest)
    return store


def write_records(path, *, changed: int | None = None, shape=SHAPE, privacy_class="private") -> Store:
    rng, store = np.random.default_rng(0), Store(path)
    image = rng.integers(0, 256, (NUM_RECORDS, *shape)).astype(np.uint8)
    label = (np.arange(NUM_RECORDS) % NUM_CLASSES).astype(np.int32)
    if changed is not None:
        image[changed], label[changed] = 255 - image[changed], 1 - label[changed]
    table = ImageTable(example_id=np.arange(NUM_RECORDS) * 3, image=image, label=label)
    part = write_images(store, "a.parquet", table, stage=INGEST, privacy_class=privacy_class)
    return finish(store, INGEST, privacy_class, [part], image_shape=list(shape))


def write_pretrain(path, *, privacy_class="public") -> Store:
    models, store = build_public_models(SPEC, image_shape=SHAPE, num_public_classes=NUM_PUBLIC), Store(path)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in models.denoiser.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    names = ("autoencoder", "denoiser", "extractor")
    files = [save_weights(store, f"{name}.safetensors", getattr(models, name).state_dict()) for name in names]
    return finish(store, "pretrain", privacy_class, files, image_shape=list(SHAPE), num_public_classes=NUM_PUBLIC)


def write_base(path, *, privacy_class="public") -> Store:
    rng, store, ids = np.random.default_rng(1), Store(path), np.arange(NUM_ROWS)
    keys = rng.normal(size=(NUM_ROWS, 4)).astype("f4")
    columns = {
        "trajectory_id": ids,
        "key": keys,
        "value": rng.normal(size=(NUM_ROWS, *SHAPE)).astype("f2"),
        "label": (ids % NUM_PUBLIC).astype("i4"),
        "prototype": (ids % NUM_PROTOTYPES).astype("i4"),
    }
    shard = build_shard(keys, ids, space="cosine", M=8, ef_construction=50, seed=0)
    facts = {"num_shards": 1, "ef_search": 60, "num_prototypes": NUM_PROTOTYPES}
    return finish(store, "build_kb", privacy_class, write_shard(store, 0, shard, columns, keys[:1]), **facts)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    path = tmp_path_factory.mktemp("public")
    return {"pretrain": write_pretrain(path / "pretrain"), "knowledge_base": write_base(path / "base")}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Store:
    return write_records(tmp_path_factory.mktemp("private"))


def load(images, public, *, spec=SPEC, collective=None):
    return load_private_inputs(spec, images=images, collective=collective or OneWorker(), device="cpu", **public)


def rows_of(inputs) -> dict[int, tuple]:
    """By example id: everything the worker knows of the record."""
    part = inputs.partition
    return {
        int(i): (part.latent[n].tolist(), part.surrogate[n].tolist(), int(part.label[n]), int(inputs.prototype[n]))
        for n, i in enumerate(part.example_id)
    }


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("spec", [SPEC, MAPPED], ids=["free", "mapped"])
def test_what_is_known_of_a_record_does_not_depend_on_the_worker_that_holds_it(records, public, world_size, spec):
    whole = rows_of(load(records, public, spec=spec))
    parts = [rows_of(load(records, public, spec=spec, collective=OneOf(r, world_size))) for r in range(world_size)]
    assert sum(map(len, parts)) == len(whole) == NUM_RECORDS
    assert {i: row for part in parts for i, row in part.items()} == whole


def test_a_changed_record_changes_no_other_row(records, public, tmp_path):
    before, after = rows_of(load(records, public)), rows_of(load(write_records(tmp_path, changed=4), public))
    assert [i for i in before if before[i] != after[i]] == [12]


def test_a_record_starts_from_a_value_of_the_base_that_its_class_allows(records, public):
    inputs = load(records, public, spec=MAPPED)
    store = public["knowledge_base"]
    (shard,) = shard_files(read_manifest(store))
    base = table_arrays(store.read_bytes(shard.rows.path))
    values = base["value"].astype("f4")
    for n in range(NUM_RECORDS):
        (row,) = np.flatnonzero((values == inputs.partition.surrogate[n].numpy()).all(axis=(1, 2, 3)))
        assert LABEL_MAP[base["label"][row]] == inputs.partition.label[n]
        assert base["prototype"][row] == inputs.prototype[n]


def test_latents_are_the_encoded_pixels(records, public):
    part = load(records, public).partition
    image = np.random.default_rng(0).integers(0, 256, (NUM_RECORDS, *SHAPE))
    torch.testing.assert_close(part.latent, torch.from_numpy(image / 127.5 - 1).float())


def test_a_worker_without_records_has_empty_inputs_of_the_right_shapes(records, public):
    inputs = load(records, public, collective=OneOf(NUM_RECORDS, NUM_RECORDS + 1))
    assert len(inputs.partition) == 0
    assert inputs.partition.latent.shape == inputs.partition.surrogate.shape == (0, *SHAPE)
    assert inputs.prototype.shape == (0,)


def test_without_retrieval_no_base_is_opened(records, public):
    spec = replace(
        SPEC,
        schedule=replace(SPEC.schedule, split_step=50),
        training=TrainingSpec(objective="denoise", class_init="distinct"),
    )
    inputs = load(records, {**public, "knowledge_base": None}, spec=spec)
    assert inputs.partition.surrogate is None
    assert inputs.prototype_labels is None


def test_records_without_classes_are_unlabelled(records, public):
    spec = replace(
        SPEC,
        data=replace(SPEC.data, num_classes=0),
        privacy=replace(SPEC.privacy, votes_noise_multiplier=None),
        training=TrainingSpec(class_init="zero"),
    )
    assert load(records, public, spec=spec).partition.label.tolist() == [-1] * NUM_RECORDS


def test_each_input_must_have_its_privacy_class(records, public, tmp_path):
    wrong = {
        "images": (write_records(tmp_path / "images", privacy_class="public"), public),
        "pretrain": (records, {**public, "pretrain": write_pretrain(tmp_path / "p", privacy_class="private")}),
        "base": (records, {**public, "knowledge_base": write_base(tmp_path / "b", privacy_class="private")}),
    }
    for images, others in wrong.values():
        with pytest.raises(PrivacyError, match="expected"):
            load(images, others)


def test_private_images_of_another_shape_are_refused(public, tmp_path):
    with pytest.raises(InputError, match=r"set data\.image_size"):
        load(write_records(tmp_path, shape=(1, 6, 6)), public)


def test_the_model_starts_from_public_weights_and_voted_classes(records, public):
    """Each class's votes go to the prototype of most of one public class, and the embedding is that class's."""
    inputs = load(records, public)
    labels = inputs.prototype_labels
    assert labels.shape == (NUM_PROTOTYPES, NUM_PUBLIC)
    assert labels.sum(1) == pytest.approx(np.ones(NUM_PROTOTYPES))
    sharp = replace(inputs, prototype_labels=np.eye(NUM_PUBLIC)[[0, 1, 2, 0]])
    votes = np.array([[0.0, 0.0, 50.0, -1.0], [1.5, 80.0, 0.0, 0.0]])
    public_state = inputs.models.denoiser.state_dict()
    state = start_model(SPEC, sharp, votes).state_dict()
    assert torch.equal(state[CLASS_WEIGHT], public_state[CLASS_WEIGHT][:, [2, 1]])
    assert all(torch.equal(state[n], t) for n, t in public_state.items() if n != CLASS_WEIGHT)
    mapped = start_model(MAPPED, sharp, votes).state_dict()
    assert torch.equal(mapped[CLASS_WEIGHT], public_state[CLASS_WEIGHT][:, [2, 0]])
