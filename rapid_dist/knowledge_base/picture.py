"""What a knowledge base finds for one image, as a picture: the nearest trajectories' public images and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rapid_dist.errors import InputError
from rapid_dist.evaluation.pictures import image_grid
from rapid_dist.ingest.pixels import CorruptImageError, to_pixels
from rapid_dist.knowledge_base.files import open_knowledge_base
from rapid_dist.knowledge_base.trajectory import keys_of_latents, trajectory_noise, values_of_latents
from rapid_dist.models.autoencoder import to_pixels as latents_to_pixels
from rapid_dist.models.public import PRETRAIN, PublicModels, encode_pixels, open_public_models
from rapid_dist.seeding import derive_seed
from rapid_dist.specs import RunSpec
from rapid_dist.storage.manifest import Manifest, open_artifact
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, find_images

_TARGET_PIXELS = 84


@dataclass(frozen=True, kw_only=True)
class FoundTrajectory:
    """A neighbour: which public image it came from (input: the set's name in the manifest), how far, which class."""

    trajectory_id: int
    distance: float
    label: int
    input: str
    example_id: int


def query_image(
    spec: RunSpec,
    payload: bytes,
    *,
    pretrain: Store,
    knowledge_base: Store,
    base: Manifest,
    datasets: Sequence[Store],
    num_neighbors: int,
) -> tuple[bytes, list[FoundTrajectory]]:
    """A PNG of the image and its nearest trajectories, nearest first, and what they are.

    A row holds an image and its value decoded: the latent at split_step, the noisier the later the split. The key is
    made by the one road that all keys take. datasets: where public images of the base may be found; a neighbour of a
    set that is in none of them is shown by its value alone.
    Raises InputError when the payload is no image.
    """
    weights = open_artifact(pretrain, stage=PRETRAIN, privacy_classes=("public",))
    models = open_public_models(spec, pretrain, weights, device="cpu")
    channels, size, _ = weights.facts["image_shape"]
    try:
        image = to_pixels(payload, image_size=size, num_channels=channels)
    except CorruptImageError as error:
        raise InputError(f"the image cannot be decoded: {error}; give a PNG or JPEG file") from None
    search = open_knowledge_base(spec.knowledge_base, knowledge_base, base)
    key, value = _key_and_value(spec, models, image)
    nearest = search.query(key, num_neighbors=num_neighbors)
    is_real = nearest.trajectory_id[0] >= 0
    ids, distances = nearest.trajectory_id[0][is_real], nearest.distance[0][is_real]
    found = [
        FoundTrajectory(trajectory_id=int(i), distance=float(d), label=int(y), **_origin(spec, base, int(i)))
        for i, d, y in zip(ids, distances, search.labels_of(ids), strict=True)
    ]
    values = _decoded(models, torch.from_numpy(search.values_of(ids)))
    shown = _public_images(base, datasets, found)
    rows = [("query", np.stack([image, _decoded(models, value)[0]]))]
    for rank, (one, decoded) in enumerate(zip(found, values, strict=True), start=1):
        public = shown.get((one.input, one.example_id))
        pictures = [decoded] if public is None else [public, decoded]
        rows.append((f"{rank}.  distance {one.distance:.4f}, class {one.label}", np.stack(pictures)))
    return image_grid(rows, scale=max(1, _TARGET_PIXELS // size)), found


def _key_and_value(spec: RunSpec, models: PublicModels, image: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """What the image (C, H, W) would have in the base: key (1, feature_dim), value (1, *latent_shape)."""
    latent = encode_pixels(models.autoencoder, torch.tensor(image[None]), device="cpu")
    seed = derive_seed(spec.pretrain.seed, "picture-query")
    noise = trajectory_noise(seed, np.zeros(1, np.int64), models.latent_shape)
    shared = {"schedule": spec.schedule, "alphas_cumprod": models.alphas_cumprod}
    key = keys_of_latents(
        latent,
        noise,
        denoiser=models.denoiser,
        extract=models.extractor,
        num_conditions=models.num_public_classes,
        **shared,
    )
    return key.numpy(), values_of_latents(latent, noise, **shared)


@torch.no_grad()
def _decoded(models: PublicModels, values: torch.Tensor) -> np.ndarray:
    return latents_to_pixels(models.autoencoder.decode(values)).numpy()


def _origin(spec: RunSpec, base: Manifest, trajectory_id: int) -> dict[str, object]:
    """The set that a trajectory is of, and the example within it."""
    own = max((s for s in base.facts["sets"] if s["first_id"] <= trajectory_id), key=lambda s: s["first_id"])
    draws = spec.knowledge_base.num_trajectories_per_image
    return {"input": own["input"], "example_id": (trajectory_id - own["first_id"]) // draws}


def _public_images(
    base: Manifest, datasets: Sequence[Store], found: Sequence[FoundTrajectory]
) -> dict[tuple[str, int], np.ndarray]:
    images: dict[tuple[str, int], np.ndarray] = {}
    for store in datasets:
        manifest = open_artifact(store, stage=INGEST, privacy_classes=("public",))
        for name in [n for n, digest in base.inputs.items() if digest == manifest.digest]:
            wanted = [one.example_id for one in found if one.input == name]
            images |= {(name, i): image for i, image in find_images(store, manifest, wanted).items()}
    return images
