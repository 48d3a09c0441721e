"""What a worker of private training starts from: its records as latents, their retrieved starts, first weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from rapid_dist.diffusion.process import OBJECTIVES, add_noise, value_timestep
from rapid_dist.errors import InputError
from rapid_dist.knowledge_base.files import BUILD, open_knowledge_base
from rapid_dist.knowledge_base.search import TrajectorySearch, nearest_trajectories, prototype_label_shares
from rapid_dist.knowledge_base.trajectory import keys_of_latents, trajectory_noise
from rapid_dist.models.denoisers import build_denoiser, one_hot_condition
from rapid_dist.models.public import PRETRAIN, PublicModels, encode_pixels, in_equal_batches, open_public_models
from rapid_dist.privacy.release import vote_shares
from rapid_dist.seeding import (
    content_addresses,
    derive_seed,
    draw_integers,
    draw_normals,
    draw_uniforms,
    make_generator,
    make_rng,
)
from rapid_dist.specs import RunSpec, ScheduleSpec, TrainingSpec
from rapid_dist.storage.manifest import Manifest, open_artifact
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, read_all_images
from rapid_dist.training.collective import Collective
from rapid_dist.training.plan import PrivateRun


@dataclass(frozen=True, kw_only=True)
class PrivatePartition:
    """The private records one worker holds.

    example_id: (n,) int64, the record's place in its data set, which only the secret draws of inclusion may use;
    address: (n,) uint64, the digest of its own pixels, by which public draws find it (seeding.content_addresses);
    latent: (n, *latent_shape) float32; label: (n,) int64, -1 for none;
    surrogate: (n, *latent_shape) float32, each record's own retrieved value, or None.
    """

    example_id: np.ndarray
    address: np.ndarray
    latent: torch.Tensor
    label: torch.Tensor
    surrogate: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.example_id)


@dataclass(frozen=True, kw_only=True)
class PrivateBatch:
    """The examples of one step on one worker, B of them (B may be 0), each with K noise draws.

    x_t, noise: (B, K, ...) float32; timestep: (B, K) int64; condition: (B, num_conditions) float32.
    """

    x_t: torch.Tensor
    noise: torch.Tensor
    timestep: torch.Tensor
    condition: torch.Tensor

    def __len__(self) -> int:
        return len(self.x_t)

    @property
    def rows_per_example(self) -> int:
        """K, how many noise draws an example has."""
        return self.timestep.shape[1]

    def rows(self) -> tuple[torch.Tensor, ...]:
        """What denoising_loss takes besides a model: (B * K, ...) each, an example's draws next to each other."""
        condition = self.condition.repeat_interleave(self.rows_per_example, dim=0)
        return self.x_t.flatten(0, 1), self.noise.flatten(0, 1), self.timestep.flatten(), condition

    def part(self, start: int, stop: int) -> PrivateBatch:
        """The examples from start to stop."""
        fields = {name: getattr(self, name)[start:stop] for name in ("x_t", "noise", "timestep", "condition")}
        return PrivateBatch(**fields)


def make_private_batch(
    partition: PrivatePartition,
    included: np.ndarray,
    run: PrivateRun,
    *,
    step: int,
) -> PrivateBatch:
    """Returns the batch of the included records (n,) bool at this step.

    Timesteps, diffusion noise and label dropout are functions of (seed, step, content of the record), so neither the
    worker that holds a record, nor its place in the data set, nor the other records change them.

    Guarantee: row i is a function of the content of record i and public values alone.
    """
    training, schedule, device = run.training, run.schedule, run.device
    index = np.flatnonzero(included)
    address, draws = partition.address[index], training.noise_multiplicity
    latent = partition.latent[index]
    timestep = draw_timesteps(training, schedule, step, address)
    noise = draw_normals(training.seed, f"noise-{step}", address, (draws, *latent.shape[1:]))
    kept = draw_uniforms(training.seed, f"label-{step}", address, 1)[:, 0] >= training.label_dropout
    label = torch.where(torch.from_numpy(kept), partition.label[index], -1)

    x0 = latent.to(device).repeat_interleave(draws, dim=0)
    surrogate = partition.surrogate
    if surrogate is not None:
        surrogate = surrogate[index].to(device).repeat_interleave(draws, dim=0)
    flat_timestep = torch.from_numpy(timestep).flatten().to(device)
    flat_noise = torch.from_numpy(noise).flatten(0, 1).to(device)
    objective = OBJECTIVES[training.objective]
    target = objective(x0, flat_noise, surrogate, value_timestep(schedule), run.alphas_cumprod)
    x_t = add_noise(x0, flat_timestep, target, run.alphas_cumprod)
    shape = (len(index), draws, *latent.shape[1:])
    return PrivateBatch(
        x_t=x_t.reshape(shape),
        noise=target.reshape(shape),
        timestep=flat_timestep.reshape(len(index), draws),
        condition=one_hot_condition(label.to(device), run.num_conditions),
    )


def draw_timesteps(training: TrainingSpec, schedule: ScheduleSpec, step: int, address: np.ndarray) -> np.ndarray:
    """Timesteps below the split, (n, noise_multiplicity) int64, by the law of training.timestep_power.

    floor(split_step * u^power): the share of draws below a timestep t is (t / split_step)^(1 / power).
    """
    role, draws = f"timestep-{step}", training.noise_multiplicity
    if training.timestep_power == 1:
        return draw_integers(training.seed, role, address, draws, below=schedule.split_step)
    uniform = draw_uniforms(training.seed, role, address, draws)
    drawn = (schedule.split_step * uniform**training.timestep_power).astype(np.int64)
    return drawn.clip(max=schedule.split_step - 1)


CLASS_WEIGHT = "embed_class.weight"  # (embedding_dim, num_conditions) in every denoiser


def public_class_weights(
    num_classes: int,
    num_public_classes: int,
    *,
    label_map: Mapping[int, int],
    class_shares: np.ndarray | None,
) -> np.ndarray:
    """(num_classes, num_public_classes) non-negative: how much each public class stands for each private one.

    class_shares: noisy shares of public classes per private class, or None. The label map wins over the shares;
    a class nothing is known of has a row of zeros.
    """
    weights = np.zeros((num_classes, num_public_classes))
    if label_map:
        for public, private in label_map.items():
            if public < num_public_classes:
                weights[private, public] = 1.0
    elif class_shares is not None:
        weights = np.asarray(class_shares, dtype=float).copy()
    totals = weights.sum(1, keepdims=True)
    return np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)


def _one_to_one(weights: np.ndarray, seed: int) -> np.ndarray:
    """One public class a private class, (num_classes,), distinct while there are enough, by largest total weight."""
    num_classes, num_public = weights.shape
    jitter = make_rng(seed, "class-start").random(weights.shape) * 1e-6
    repeated = np.tile(weights + jitter, (1, -(-num_classes // num_public)))
    rows, columns = linear_sum_assignment(-repeated)
    chosen = np.empty(num_classes, dtype=np.int64)
    chosen[rows] = columns % num_public
    return chosen


def start_private_model(
    private: nn.Module, public_weights: Mapping[str, torch.Tensor], *, class_init: str, weights: np.ndarray, seed: int
) -> None:
    """Copies the public weights into the private model; class embeddings start as class_init says.

    weights: (num_classes, num_public_classes) from public_class_weights. `zero` starts all classes equal, `distinct`
    and `votes` give each private class the embedding of a public class of its own, the one it weighs most.
    """
    state = dict(private.state_dict())
    for name, value in public_weights.items():
        if name in state and state[name].shape == value.shape and name != CLASS_WEIGHT:
            state[name] = value
    if CLASS_WEIGHT in state:
        table = torch.zeros_like(state[CLASS_WEIGHT])
        public = public_weights.get(CLASS_WEIGHT)
        if class_init != "zero" and public is not None:
            table = public[:, torch.from_numpy(_one_to_one(weights, seed))].clone()
        elif class_init != "zero":
            rng = make_rng(seed, "class-embedding")
            table = torch.from_numpy(rng.standard_normal(table.shape).astype(np.float32))
        state[CLASS_WEIGHT] = table
    private.load_state_dict(state)


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
    if spec.uses_retrieval:
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
