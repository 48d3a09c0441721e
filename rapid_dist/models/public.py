"""Trained weights as safetensors files, and the public models of a pretrain artefact opened from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rapid_dist.diffusion.process import make_alphas_cumprod
from rapid_dist.errors import ArtifactError
from rapid_dist.models.autoencoder import build_autoencoder
from rapid_dist.models.denoisers import build_denoiser
from rapid_dist.models.extractor import Extractor
from rapid_dist.seeding import make_generator
from rapid_dist.specs import RunSpec
from rapid_dist.storage.manifest import FileEntry, Manifest, read_file, write_file
from rapid_dist.storage.store import Store

PRETRAIN = "pretrain"
_EQUAL_BATCH = 256  # rows of a batch: large enough to cost nothing, small enough to fill up for a few records


def save_weights(store: Store, path: str, weights: Mapping[str, torch.Tensor]) -> FileEntry:
    """Writes tensors as one safetensors file and returns its entry for the manifest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return write_file(store, path, save_tensors(tensors))


def read_weights(store: Store, manifest: Manifest, path: str) -> dict[str, torch.Tensor]:
    """The tensors of a manifest's weight file, checked against its digest; never unpickled."""
    entries = [f for f in manifest.files if f.path == path]
    if not entries:
        raise ArtifactError(f"{store.uri} has no {path} in its manifest; run the stage {manifest.stage!r} again")
    return load_tensors(read_file(store, entries[0]))


def load_into(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Raises ArtifactError when the weights are of another network."""
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError:
        raise ArtifactError(f"{where} holds another network than the spec describes; use a new --out folder") from None


@dataclass(frozen=True, kw_only=True)
class PublicModels:
    """Everything trained on public data, in eval mode on one device."""

    autoencoder: torch.nn.Module
    denoiser: torch.nn.Module
    extractor: Extractor
    alphas_cumprod: torch.Tensor
    num_public_classes: int

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.autoencoder.latent_shape


def build_public_models(
    spec: RunSpec, *, image_shape: tuple[int, int, int], num_public_classes: int, device: str = "cpu"
) -> PublicModels:
    """Freshly initialised public models, a function of the spec alone."""
    seed = spec.pretrain.seed
    autoencoder = build_autoencoder(
        spec.autoencoder, image_shape=image_shape, generator=make_generator(seed, "init-autoencoder")
    )
    shape = autoencoder.latent_shape
    denoiser = build_denoiser(
        spec.denoiser,
        latent_shape=shape,
        num_conditions=num_public_classes,
        generator=make_generator(seed, "init-denoiser"),
    )
    extractor = Extractor(spec.extractor, latent_shape=shape, generator=make_generator(seed, "init-extractor"))
    return PublicModels(
        autoencoder=autoencoder.to(device),
        denoiser=denoiser.to(device),
        extractor=extractor.to(device),
        alphas_cumprod=make_alphas_cumprod(spec.schedule).to(device),
        num_public_classes=num_public_classes,
    )


def open_public_models(spec: RunSpec, store: Store, manifest: Manifest, *, device: str = "cpu") -> PublicModels:
    """The trained public models of a pretrain artefact."""
    models = build_public_models(
        spec,
        image_shape=tuple(manifest.facts["image_shape"]),
        num_public_classes=manifest.facts["num_public_classes"],
        device=device,
    )
    for name in ("autoencoder", "denoiser", "extractor"):
        module = getattr(models, name)
        load_into(module, read_weights(store, manifest, f"{name}.safetensors"), where=f"{store.uri}/{name}")
        module.eval().requires_grad_(False)
    return models


@torch.no_grad()
def in_equal_batches(fn: Callable[..., torch.Tensor], *rows: torch.Tensor, row_shape: tuple[int, ...]) -> torch.Tensor:
    """Returns fn of the rows, (n, *row_shape), asked for in batches of one size; the last one is filled up with zeros.

    fn: from a batch of each of `rows`, (b, ...), to (b, *row_shape) on the CPU; its row i looks at row i alone.
    A library may compute a row by another kernel in a batch of another size, and then the last bit of a record's result
    would tell how many records there are. One bit is enough to change which trajectory is nearest, hence a vote.
    """
    results = []
    for batch in zip(*(r.split(_EQUAL_BATCH) for r in rows), strict=True):
        size = len(batch[0])
        if size < _EQUAL_BATCH:
            batch = [torch.cat([b, b.new_zeros(_EQUAL_BATCH - size, *b.shape[1:])]) for b in batch]
        results.append(fn(*batch)[:size])
    return torch.cat(results) if results else torch.empty(0, *row_shape)


def encode_pixels(autoencoder: torch.nn.Module, image: torch.Tensor, *, device: str) -> torch.Tensor:
    """Returns the latents (n, *latent_shape) float32, on the CPU, of images (n, C, H, W) uint8.

    Guarantee: row i is a function of image i and the autoencoder alone, to the bit.
    """

    def encode(part: torch.Tensor) -> torch.Tensor:
        return autoencoder.encode(part.to(device).float() / 255).cpu()

    return in_equal_batches(encode, image, row_shape=autoencoder.latent_shape)
