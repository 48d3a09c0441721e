"""What a worker of private training starts from: its records as latents, their retrieved starts, first weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rapid_dist.artifacts.images import INGEST, read_all_images
from rapid_dist.artifacts.knowledge_base import BUILD, open_knowledge_base
from rapid_dist.artifacts.manifest import Manifest, open_artifact
from rapid_dist.artifacts.models import PRETRAIN, PublicModels, encode_pixels, in_equal_batches, open_public_models
from rapid_dist.artifacts.prototypes import prototype_label_shares
from rapid_dist.artifacts.storage import Store
from rapid_dist.diffusion.denoisers import build_denoiser
from rapid_dist.errors import InputError
from rapid_dist.retrieval.interface import TrajectorySearch
from rapid_dist.retrieval.record_queries import nearest_trajectories
from rapid_dist.retrieval.trajectory import keys_of_latents, trajectory_noise
from rapid_dist.seeding import content_addresses, derive_seed, make_generator
from rapid_dist.specs import RunSpec
from rapid_dist.training.class_start import public_class_weights, start_private_model, vote_shares
from rapid_dist.training.collective import Collective
from rapid_dist.training.private_batch import PrivatePartition


@dataclass(frozen=True, kw_only=True)
class PrivateInputs:
    """prototype: (n,) int64, the public prototype of each record's nearest trajectory; empty without retrieval.

    prototype_labels: (num_prototypes, num_public_classes) public shares; None without retrieval.
    """

    partition: PrivatePartition
    models: PublicModels
    prototype: np.ndarray
    num_prototypes: int
    prototype_labels: np.ndarray | None
    image_shape: tuple[int, int, int]
    device: str


def load_private_inputs(
    spec: RunSpec,
    *,
    images: Store,
    pretrain: Store,
    knowledge_base: Store | None,
    collective: Collective,
    device: str,
    base: Manifest | None = None,
    search: TrajectorySearch | None = None,
) -> PrivateInputs:
    """Reads this worker's records, encodes them with public weights and retrieves each one's trajectory once.

    base: the version of the knowledge base to use, whatever became of it since; None is the newest.
    search: a service that holds the base; None opens it in this process.

    Guarantee: every row is a function of its record's content and public artefacts alone, to the bit; only example_id
    is the record's place, and only inclusion, whose key is secret, looks at it.
    """
    weights = open_artifact(pretrain, stage=PRETRAIN, privacy_classes=("public",))
    models = open_public_models(spec, pretrain, weights, device=device)
    source = open_artifact(images, stage=INGEST, privacy_classes=("private",))
    if source.facts["image_shape"] != weights.facts["image_shape"]:
        raise InputError(
            f"private images have shape {source.facts['image_shape']}, public ones {weights.facts['image_shape']}; "
            "set data.image_size and data.num_channels so that they agree"
        )
    table = read_all_images(images, source, rank=collective.rank, world_size=collective.world_size)
    address = content_addresses(table.image)
    latent = encode_pixels(models.autoencoder, torch.from_numpy(table.image), device=device)
    label = table.label.astype(np.int64) if spec.data.num_classes else np.full(len(table), -1, dtype=np.int64)
    surrogate, prototype, num_prototypes, prototype_labels = None, np.empty(0, np.int64), 0, None
    if spec.schedule.uses_retrieval:
        if base is None:
            base = open_artifact(knowledge_base, stage=BUILD, privacy_classes=("public",))
        if search is None:
            search = open_knowledge_base(spec.knowledge_base, knowledge_base, base)
        nearest = nearest_trajectories(
            _record_keys(spec, models, latent, address, device), label, search, spec.knowledge_base.label_map
        )
        prototype, num_prototypes = search.prototypes_of(nearest).astype(np.int64), base.facts["num_prototypes"]
        prototype_labels = prototype_label_shares(search, num_prototypes, models.num_public_classes)
        if spec.training.objective == "surrogate":
            surrogate = torch.from_numpy(search.values_of(nearest))
    return PrivateInputs(
        partition=PrivatePartition(
            example_id=table.example_id,
            address=address,
            latent=latent,
            label=torch.from_numpy(label),
            surrogate=surrogate,
        ),
        models=models,
        prototype=prototype,
        num_prototypes=num_prototypes,
        prototype_labels=prototype_labels,
        image_shape=tuple(source.facts["image_shape"]),
        device=device,
    )


def _record_keys(
    spec: RunSpec, models: PublicModels, latent: torch.Tensor, address: np.ndarray, device: str
) -> np.ndarray:
    """The key of each record, by the same road as the knowledge base's keys, (n, feature_dim) float32."""
    noise = trajectory_noise(derive_seed(spec.training.seed, "record-query"), address, models.latent_shape)

    def keys(latent: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return keys_of_latents(
            latent.to(device),
            noise.to(device),
            denoiser=models.denoiser,
            extract=models.extractor,
            schedule=spec.schedule,
            alphas_cumprod=models.alphas_cumprod,
            num_conditions=models.num_public_classes,
        ).cpu()

    return in_equal_batches(keys, latent, noise, row_shape=(spec.extractor.feature_dim,)).numpy()


def start_model(spec: RunSpec, inputs: PrivateInputs, noisy_votes: np.ndarray | None) -> torch.nn.Module:
    """The private denoiser before its first step: public weights, class embeddings from public classes."""
    models, num_classes = inputs.models, spec.data.num_classes
    model = build_denoiser(
        spec.denoiser,
        latent_shape=models.latent_shape,
        num_conditions=num_classes,
        generator=make_generator(spec.training.seed, "init-private"),
    )
    class_shares = None
    if noisy_votes is not None and spec.training.class_init == "votes" and inputs.prototype_labels is not None:
        shares = vote_shares(noisy_votes, spec.privacy.votes_noise_multiplier)
        class_shares = shares @ inputs.prototype_labels
    weights = public_class_weights(
        num_classes,
        max(1, models.num_public_classes),
        label_map=spec.knowledge_base.label_map,
        class_shares=class_shares,
    )
    start_private_model(
        model,
        models.denoiser.state_dict(),
        class_init=spec.training.class_init,
        weights=weights,
        seed=spec.training.seed,
    )
    return model
