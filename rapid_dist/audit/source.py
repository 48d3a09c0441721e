"""The layer `source`: an owner's files with and without one record, from ingest to release, record by record.

Neighbours are sources that differ by one file or row. Ids, parts and shares of workers then move; nothing that is known
of any other record may, to the bit, and the sums may move by that one record alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rapid_dist.audit.checks import Check
from rapid_dist.audit.source_files import (
    CLASSES,
    KINDS,
    NUM_PUBLIC,
    REMOVALS,
    SIDE,
    SourceKind,
    make_public,
    write_source,
)
from rapid_dist.audit.trials import AuditSettings
from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.errors import RapidDistError
from rapid_dist.ingest.dataset import IngestSettings, ingest_source
from rapid_dist.knowledge_base.files import BUILD, write_shard
from rapid_dist.knowledge_base.index import build_shard
from rapid_dist.knowledge_base.trajectory import keys_of_latents, trajectory_noise, values_of_latents
from rapid_dist.models.public import PRETRAIN, build_public_models, encode_pixels, save_weights
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import PaidSteps, open_ledger
from rapid_dist.privacy.plan import OneWorker
from rapid_dist.privacy.release import count_votes
from rapid_dist.seeding import make_generator, make_rng
from rapid_dist.specs import (
    AutoencoderSpec,
    DataSpec,
    ExtractorSpec,
    KnowledgeBaseSpec,
    PrivacySpec,
    RunSpec,
    RuntimeSpec,
    StatisticsSpec,
    TrainingSpec,
)
from rapid_dist.storage.manifest import Manifest, open_artifact, write_manifest
from rapid_dist.storage.stage import map_serially
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, read_all_images
from rapid_dist.training.plan import build_plan, private_run
from rapid_dist.training.private import local_statistics
from rapid_dist.training.private_data import PrivateInputs, load_private_inputs, make_private_batch, start_model

STEPS = 2
_NUM_WORKERS = 2  # whose shares of the records are added up here, so that a share's boundary moves too
_DEBUG_KEY = 20261125  # inclusion and noise are held fixed
_NUM_PROTOTYPES = 16
_DRAWS = 3  # trajectories of a public image: enough that a query with other noise finds another prototype
_STATISTICS_CLIP = 0.005  # below the norm of every latent here, so that a clip that is missing shows
FIELDS = ("image", "label", "latent", "vote", "surrogate", "draws", "clipped gradient")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What the road did with a source.

    records: for each of FIELDS how often each (digest of the image, value of the field) occurs. votes: (classes,
    prototypes) int64. statistics: (classes * parts, size) float64, before noise. clipped_sums, released: (STEPS, P)
    float64, before and after noise, in clipping norms.
    """

    records: dict[str, Counter]
    votes: np.ndarray
    statistics: np.ndarray
    clipped_sums: np.ndarray
    released: np.ndarray


class _Share:
    """The rank of one worker of a group that is not there: loading needs no more."""

    def __init__(self, rank: int):
        self.rank, self.world_size = rank, _NUM_WORKERS


class Road:
    """One kind of source, its public side, and a plan with every record in every step; take() follows a source."""

    def __init__(self, settings: AuditSettings, kind: SourceKind, work: Store):
        self.kind, self._work, self._taken = kind, work, 0
        self.spec = _spec_of(settings, kind)
        self.public, self._pretrain, self._base = work.child("public"), work.child("pretrain"), work.child("base")
        self._make_public(settings.seed)
        self.plan = build_plan(self.spec)
        self._paid = self._pay()

    def take(self, source: Path) -> Trace:
        """Ingests the source and does what training would with it. Raises what ingest or training raise."""
        self._taken += 1
        images, data = self._work.child(f"private-{self._taken}"), self.spec.data
        settings = IngestSettings(
            source=str(source),
            privacy_class="private",
            image_size=data.image_size,
            num_channels=data.num_channels,
            class_names=data.class_names,
            num_classes=data.num_classes,
            skip_corrupt=data.skip_corrupt,
            drop_equal_to=self.public,
        )
        ingest_source(settings, images, map_serially)
        shares = [self._load(images, rank) for rank in range(_NUM_WORKERS)]
        return self._trace(images, shares)

    def dataset(self) -> Store:
        """The dataset made last."""
        return self._work.child(f"private-{self._taken}")

    def _load(self, images: Store, rank: int) -> PrivateInputs:
        return load_private_inputs(
            self.spec,
            images=images,
            pretrain=self._pretrain,
            knowledge_base=self._base,
            collective=_Share(rank),
            device="cpu",
        )

    def _trace(self, images: Store, shares: list[PrivateInputs]) -> Trace:
        records: dict[str, Counter] = {name: Counter() for name in FIELDS}
        model = _moved(start_model(self.spec, shares[0], None))
        votes = np.zeros((max(1, self.spec.data.num_classes), _NUM_PROTOTYPES), np.int64)
        size = sum(p.numel() for p in model.parameters())
        sums, released = np.zeros((STEPS, size)), np.zeros((STEPS, size))
        engine = self.spec.runtime.clipping_engine
        steps = list(self.plan.private_steps(RunKey.fixed_for_debugging(_DEBUG_KEY), self._paid))
        kept = [_Kept(share, self._image_digests(images, rank)) for rank, share in enumerate(shares)]
        for number, step in enumerate(steps):
            total = torch.zeros(size, dtype=torch.float64)
            for share in kept:
                partition = share.inputs.partition
                batch = make_private_batch(
                    partition,
                    step.included(partition.example_id),
                    private_run(self.spec, self.plan, share.inputs.models.alphas_cumprod, device="cpu"),
                    step=step.number,
                )

                def clipped(part, step=step):
                    draws = part.rows_per_example
                    return step.clipped_sum(denoising_loss, model, part.rows(), rows_per_example=draws, engine=engine)

                total += clipped(batch)
                share.look_at(batch, clipped)
            sums[number] = total.numpy() / self.plan.max_grad_norm
            given = step.release(total.clone(), OneWorker()).numpy()
            released[number] = given * self.plan.expected_batch_size
        for share in kept:
            share.write_down(records)
            label = share.inputs.partition.label.numpy()
            rows = label if self.spec.data.num_classes else np.zeros_like(label)
            votes += count_votes(rows, share.inputs.prototype, votes.shape)
        statistics = sum(local_statistics(share, self.spec) for share in shares)
        return Trace(records=records, votes=votes, statistics=statistics, clipped_sums=sums, released=released)

    def _image_digests(self, images: Store, rank: int) -> list[bytes]:
        manifest = open_artifact(images, stage=INGEST, privacy_classes=("private",))
        table = read_all_images(images, manifest, rank=rank, world_size=_NUM_WORKERS)
        return [_digest(image) for image in table.image]

    def _make_public(self, seed: int) -> None:
        """Public images, models that were never trained but moved off zero, and a base that their keys make."""
        path = Path(self._work.path("public-images.npz"))
        path.parent.mkdir(parents=True, exist_ok=True)
        image = make_public(seed)
        np.savez(path, images=image, labels=np.arange(NUM_PUBLIC) % len(CLASSES))
        ingest_source(IngestSettings(source=str(path), privacy_class="public"), self.public, map_serially)
        shape, num_labels = (1, SIDE, SIDE), len(CLASSES)
        models = build_public_models(self.spec, image_shape=shape, num_public_classes=num_labels)
        _moved(models.denoiser)
        names = ("autoencoder", "denoiser", "extractor")
        files = [save_weights(self._pretrain, f"{n}.safetensors", getattr(models, n).state_dict()) for n in names]
        _finish(self._pretrain, PRETRAIN, files, image_shape=list(shape), num_public_classes=num_labels)
        latent = encode_pixels(models.autoencoder, torch.from_numpy(image[:, None]), device="cpu")
        latent = latent.repeat_interleave(_DRAWS, dim=0)
        ids = np.arange(len(latent))
        noise = trajectory_noise(self.spec.pretrain.seed, ids, models.latent_shape)
        process = {"schedule": self.spec.schedule, "alphas_cumprod": models.alphas_cumprod}
        networks = {"denoiser": models.denoiser, "extract": models.extractor, "num_conditions": num_labels}
        key = keys_of_latents(latent, noise, **networks, **process).detach().numpy()
        columns = {
            "trajectory_id": ids,
            "key": key,
            "value": values_of_latents(latent, noise, **process).numpy().astype(np.float16),
            "label": np.repeat(np.arange(NUM_PUBLIC) % num_labels, _DRAWS).astype(np.int32),
            "prototype": make_rng(seed, "audit-prototypes").integers(0, _NUM_PROTOTYPES, len(ids)).astype(np.int32),
        }
        base = self.spec.knowledge_base
        shard = build_shard(key, ids, space=base.space, M=base.M, ef_construction=base.ef_construction, seed=0)
        files = write_shard(self._base, 0, shard, columns, key[:1])
        _finish(self._base, BUILD, files, num_shards=1, ef_search=base.ef_search, num_prototypes=_NUM_PROTOTYPES)

    def _pay(self) -> PaidSteps:
        ledger = open_ledger(self._work.child("ledger"), **self.plan.ledger_terms())
        attempt = ledger.begin_attempt(self.plan.to_plain(), planned=self.plan.planned_charges())
        return ledger.charge(self.plan.training_charge(STEPS), attempt=attempt, first_step=0)


class _Kept:
    """What is known of one worker's records, a row each, over all steps."""

    def __init__(self, inputs: PrivateInputs, images: list[bytes]):
        self.inputs, self._images = inputs, images
        self._draws, self._gradients = [b""] * len(images), [b""] * len(images)

    def look_at(self, batch, clipped_sum) -> None:
        """Adds what a step drew for each record, and the part of the sum that is the record's own."""
        for row in range(len(batch)):
            one = batch.part(row, row + 1)
            drawn = (one.x_t, one.noise, one.timestep, one.condition)
            self._draws[row] += b"".join(t.numpy().tobytes() for t in drawn)
            self._gradients[row] += clipped_sum(one).numpy().tobytes()

    def write_down(self, records: dict[str, Counter]) -> None:
        partition = self.inputs.partition
        for row, image in enumerate(self._images):
            surrogate = b"" if partition.surrogate is None else partition.surrogate[row].numpy().tobytes()
            values = {
                "image": image,
                "label": int(partition.label[row]),
                "latent": _digest(partition.latent[row].numpy()),
                "vote": int(self.inputs.prototype[row]),
                "surrogate": surrogate,
                "draws": self._draws[row],
                "clipped gradient": self._gradients[row],
            }
            for name, value in values.items():
                records[name][image, value] += 1


def _spec_of(settings: AuditSettings, kind: SourceKind) -> RunSpec:
    num_classes = len(CLASSES) if kind.is_labelled else 0
    is_flat = settings.denoiser.kind != "unet"
    return RunSpec(
        name="audit-source",
        data=DataSpec(
            private="private",
            public="public",
            image_size=SIDE,
            num_channels=1,
            num_classes=num_classes,
            class_names=CLASSES if num_classes else None,
            skip_corrupt=True,
        ),
        autoencoder=AutoencoderSpec(kind="conv", latent_dim=12, width=4) if is_flat else AutoencoderSpec(),
        denoiser=settings.denoiser,
        schedule=settings.schedule,
        extractor=ExtractorSpec(feature_dim=8, width=16),
        knowledge_base=KnowledgeBaseSpec(method="exact", M=8, ef_construction=40, num_prototypes=_NUM_PROTOTYPES),
        privacy=PrivacySpec(
            target_epsilon=50.0,
            target_delta=settings.delta,
            sample_rate=1.0,
            nominal_size=12,
            max_grad_norm=settings.max_grad_norm,
            noise_multiplier=1.0,
            debug_fixed_key=_DEBUG_KEY,
        ),
        runtime=RuntimeSpec(clipping_engine=settings.clipping_engine),
        statistics=StatisticsSpec(clip_norm=_STATISTICS_CLIP, halvings=1),
        training=TrainingSpec(
            steps=STEPS,
            objective=kind.objective,
            noise_multiplicity=settings.noise_multiplicity,
            checkpoint_every=STEPS,
        ),
    )


def _moved(model: torch.nn.Module) -> torch.nn.Module:
    """The model with every weight moved off zero, so that all of it takes part."""
    generator = make_generator(0, "audit-source-model")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


def _finish(store: Store, stage: str, files: list, **facts) -> None:
    write_manifest(store, Manifest(stage=stage, privacy_class="public", spec={}, inputs={}, files=files, facts=facts))


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).digest()


LAYER = "source"
_FLOAT32_ULP = 2.0**-23


def source_layer(
    settings: AuditSettings,
    work: Store,
    *,
    kinds: Sequence[SourceKind] = KINDS,
    told: Callable[[str], None] = lambda what: None,
) -> tuple[Check, ...]:
    """Returns the checks of every kind of source and every record that may be taken out.

    work: an empty folder on a local disk; sources are files. told hears of each kind that is done.

    Guarantee: inclusion and noise are held fixed by a debugging key and every record is in every step, so whatever
    differs comes from the road itself.
    """
    found: list[Check] = []
    for kind in kinds:
        found += _kind_checks(settings, kind, work.child(kind.name.replace(" ", "-")))
        told(f"source {kind.name}")
    return tuple(found)


def _kind_checks(settings: AuditSettings, kind: SourceKind, work: Store) -> list[Check]:
    road, folder = Road(settings, kind, work), Path(work.path("source"))
    whole = road.take(write_source(kind, folder, settings.seed))
    found = [_read_as_sources(road, kind.name, work)]
    for what, place in REMOVALS.items():
        name = f"{kind.name} without {what}"
        try:
            rest = road.take(write_source(kind, folder, settings.seed, without=place))
        except RapidDistError as error:
            found.append(_equal(f"{name}: ends in {type(error).__name__} ({error}): runs that end in another way", 1))
            continue
        found += _compare(name, whole, rest, road.plan.grid / road.plan.max_grad_norm)
    return found


def _compare(name: str, whole: Trace, rest: Trace, grid: float) -> list[Check]:
    """The checks of one neighbour. grid: of the release, in clipping norms."""
    found = []
    for field in FIELDS:
        changed = rest.records[field] - whole.records[field]
        found.append(_equal(f"{name}: other records whose {field} changes", changed.total()))
    gone = (whole.records["image"] - rest.records["image"]).total()
    found.append(_at_most(f"{name}: records that are gone", gone, 1))
    votes = float(np.linalg.norm((whole.votes - rest.votes).astype(np.float64)))
    found.append(_at_most(f"{name}: the votes move by (L2)", votes, 1))
    statistics = float(np.linalg.norm(whole.statistics - rest.statistics))
    found.append(_at_most(f"{name}: the class statistics move by (L2)", statistics, 1))
    moved = whole.clipped_sums - rest.clipped_sums
    lengths = np.linalg.norm(moved, axis=1)
    rounding = 1e-6 + _FLOAT32_ULP * float(np.linalg.norm(whole.clipped_sums, axis=1).max())
    found.append(_at_most(f"{name}: the clipped sum moves by, in clipping norms", lengths.max(), 1 + rounding))
    otherwise = np.abs(whole.released - rest.released - moved).max()
    found.append(_at_most(f"{name}: the release moves otherwise than the sum by", otherwise, 2 * grid + rounding))
    return found


def _read_as_sources(road: Road, name: str, work: Store) -> Check:
    """A dataset's own parts given as raw images, from their folder and from elsewhere, as either class."""
    dataset, accepted = road.dataset(), 0
    elsewhere = work.child("taken-out")
    for file in dataset.list_files("parts"):
        elsewhere.write_bytes(file, dataset.read_bytes(f"parts/{file}"))
    for number, (source, privacy_class) in enumerate(
        (source, kind) for source in (dataset.child("parts"), elsewhere) for kind in ("public", "private")
    ):
        settings = IngestSettings(source=source.uri, privacy_class=privacy_class, image_size=8, num_channels=1)
        try:
            ingest_source(settings, work.child(f"read-again-{number}"), map_serially)
            accepted += 1
        except RapidDistError:
            pass
    return _equal(f"{name}: parts of a dataset that are read as a source", accepted)


def _equal(name: str, found: float) -> Check:
    return Check(layer=LAYER, name=name, found=float(found), low=0, high=0)


def _at_most(name: str, found: float, high: float) -> Check:
    return Check(layer=LAYER, name=name, found=float(found), high=float(high))
