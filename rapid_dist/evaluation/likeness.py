"""How like the reference images the samples are: Frechet distance, precision, recall, density and coverage."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from rapid_dist.errors import ArtifactError, InputError
from rapid_dist.evaluation.classifier import SmallCnn, check_features, check_images, scale_pixels


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """A fixed map from images to vectors. Distances from different extractors cannot be compared.

    name says which network, digest is the sha256 of its weights (hex).
    forward_fn maps (B, C, H, W) uint8 on the extractor's device to (B, num_features).
    """

    name: str
    digest: str
    num_features: int
    forward_fn: Callable[[torch.Tensor], torch.Tensor]
    device: str | torch.device = "cpu"
    batch_size: int = 256

    def extract(self, images: np.ndarray) -> np.ndarray:
        """Returns features (N, num_features) float32 of images (N, C, H, W) uint8; batch size never matters.

        Raises InputError for arrays of another kind, or when the network returns another shape.
        """
        check_images(images, "images")
        features = np.empty((len(images), self.num_features), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), self.batch_size):
                batch = torch.from_numpy(images[start : start + self.batch_size]).to(self.device)
                out = self.forward_fn(batch)
                if out.shape != (len(batch), self.num_features):
                    raise InputError(
                        f"{self.name} returned {tuple(out.shape)} for {len(batch)} images; "
                        f"expected {(len(batch), self.num_features)}"
                    )
                features[start : start + len(batch)] = out.float().cpu().numpy()
        return features


def classifier_features(model: SmallCnn, *, batch_size: int = 1024) -> FeatureExtractor:
    """Returns the penultimate layer of a classifier; train it on public labelled data only.

    The model is put in evaluation mode. Grey is repeated to RGB, or RGB averaged to grey, to fit the model.
    The name is "public-cnn-<dims>". Trained on private data, the metric would itself be a private output.
    """
    model.eval()

    def forward(images: torch.Tensor) -> torch.Tensor:
        return model.penultimate(_fit_channels(scale_pixels(images), model.num_channels))

    return FeatureExtractor(
        name=f"public-cnn-{model.num_features}",
        digest=digest_weights(model),
        num_features=model.num_features,
        forward_fn=forward,
        device=next(model.parameters()).device,
        batch_size=batch_size,
    )


def inception_features(
    weights_path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    probe_size: int = 299,
) -> FeatureExtractor:
    """Returns a TorchScript network, such as inception-2015-12-05.pt, as an extractor on uint8 RGB.

    It is called with return_features=True when its forward takes that, else on the images alone.
    Grey is repeated to 3 channels; the script does its own resizing and scaling. One blank image of side
    probe_size (px) finds num_features. TorchScript is loaded, never a Python pickle; it is still code, so check
    the digest. The name is "inception:<file name>"; the digest is the sha256 of the file.
    Raises InputError when there is no such file, ArtifactError when it is no TorchScript feature extractor.
    """
    path = os.fspath(weights_path)
    if not os.path.isfile(path):
        raise InputError(f"no file at {path}; expected a TorchScript feature extractor (.pt)")
    script = _load_script(path, device)
    takes_flag = any(argument.name == "return_features" for argument in script.forward.schema.arguments)

    def forward(images: torch.Tensor) -> torch.Tensor:
        rgb = _fit_channels(images, 3)
        return script(rgb, return_features=True) if takes_flag else script(rgb)

    try:
        with torch.inference_mode():
            probe = forward(torch.zeros((1, 3, probe_size, probe_size), dtype=torch.uint8, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ArtifactError(f"{path} fails on one {probe_size} px uint8 RGB image: {reason}") from error
    if not isinstance(probe, torch.Tensor) or probe.ndim != 2 or probe.shape[0] != 1:
        shape = tuple(probe.shape) if isinstance(probe, torch.Tensor) else type(probe).__name__
        raise ArtifactError(f"{path} returned {shape} for one image; expected features (1, d)")
    return FeatureExtractor(
        name=f"inception:{os.path.basename(path)}",
        digest=_digest_file(path),
        num_features=probe.shape[1],
        forward_fn=forward,
        device=device,
        batch_size=batch_size,
    )


def digest_weights(model: torch.nn.Module) -> str:
    """Returns the sha256 (hex) over names, kinds, shapes and bytes of all weights and buffers, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _load_script(path: str, device: str | torch.device) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # torch.jit is deprecated in favour of torch.export, but the published Inception file is TorchScript.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.load", category=DeprecationWarning)
        try:
            return torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not TorchScript; save it with torch.jit.save, or use the published inception file"
            ) from error


def _digest_file(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fit_channels(images: torch.Tensor, num_channels: int) -> torch.Tensor:
    if images.shape[1] == num_channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, num_channels, -1, -1)
    return images.mean(dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class LikenessResult:
    """Likeness in the space of one named extractor; only numbers with the same name and digest compare.

    fid >= 0, lower is closer, and falls with more samples; the other four are shares (density may pass 1).
    num_real and num_synthetic are the counts the Frechet distance saw.
    """

    fid: float
    precision: float
    recall: float
    density: float
    coverage: float
    feature_name: str
    feature_digest: str
    num_real: int
    num_synthetic: int


def measure_likeness(
    real: np.ndarray,
    synthetic: np.ndarray,
    extractor: FeatureExtractor,
    *,
    nearest_k: int = 5,
    max_examples: int = 5000,
    seed: int = 0,
) -> LikenessResult:
    """Returns all five measures between two sets of images, (N, C, H, W) uint8."""
    real_features, synthetic_features = extractor.extract(real), extractor.extract(synthetic)
    shares = precision_recall_density_coverage(
        real_features, synthetic_features, nearest_k=nearest_k, max_examples=max_examples, seed=seed
    )
    return LikenessResult(
        fid=frechet_distance(real_features, synthetic_features),
        **shares,
        feature_name=extractor.name,
        feature_digest=extractor.digest,
        num_real=len(real),
        num_synthetic=len(synthetic),
    )


def frechet_distance(real_features: np.ndarray, synthetic_features: np.ndarray) -> float:
    """Returns |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), the FID on any features (Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of S1 S2, all in float64. Below zero only by
    rounding: clipped to 0.

    real_features: (N, d), synthetic_features: (M, d) floats, N, M >= 2. Cost: d^3.
    Raises InputError for other shapes or non-finite values.
    """
    _check_pair(real_features, synthetic_features)
    real, synthetic = (np.asarray(x, dtype=np.float64) for x in (real_features, synthetic_features))
    real_cov, synthetic_cov = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, synthetic))
    gap = real.mean(axis=0) - synthetic.mean(axis=0)
    # Rounding may leave eigenvalues a little below 0 or off the real line.
    root = np.sqrt(np.linalg.eigvals(real_cov @ synthetic_cov).astype(np.complex128)).real.sum()
    return max(0.0, float(gap @ gap + np.trace(real_cov) + np.trace(synthetic_cov) - 2 * root))


def precision_recall_density_coverage(
    real: np.ndarray, synthetic: np.ndarray, nearest_k: int = 5, max_examples: int = 5000, seed: int = 0
) -> dict[str, float]:
    """Returns precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    All four depend on the counts, so both sets are cut by seed to one size: the smaller one, at most max_examples.
    An example's ball reaches to its nearest_k-th nearest neighbour in its own set. Precision: synthetic examples in the
    ball of a real one. Recall: real examples in the ball of a synthetic one. Density: balls of real examples that a
    synthetic one is in, over nearest_k. Coverage: balls of real examples with a synthetic one in them.
    Memory: about two max_examples^2 matrices of floats.

    real: (N, d), synthetic: (M, d) float features.
    Raises InputError when fewer than nearest_k + 2 examples are left.
    """
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import NearestNeighbors

    _check_pair(real, synthetic)
    count = min(len(real), len(synthetic), max_examples)
    if nearest_k < 1 or count < nearest_k + 2:
        raise InputError(f"{count} examples a side and nearest_k={nearest_k}; expected at least nearest_k + 2")
    rng = np.random.default_rng(seed)
    real, synthetic = (x[rng.choice(len(x), count, replace=False)] for x in (real, synthetic))
    real_radius, synthetic_radius = (
        NearestNeighbors(n_neighbors=nearest_k, algorithm="brute").fit(x).kneighbors()[0][:, -1]
        for x in (real, synthetic)
    )
    distance = pairwise_distances(real, synthetic)
    is_in_real = distance < real_radius[:, None]
    shares = {
        "precision": is_in_real.any(axis=0).mean(),
        "recall": (distance < synthetic_radius).any(axis=1).mean(),
        "density": is_in_real.sum(axis=0).mean() / nearest_k,
        "coverage": is_in_real.any(axis=1).mean(),
    }
    return {name: float(share) for name, share in shares.items()}


def _check_pair(real: np.ndarray, synthetic: np.ndarray) -> None:
    check_features(real, "real features")
    check_features(synthetic, "synthetic features")
    if real.shape[1] != synthetic.shape[1]:
        raise InputError(
            f"real features have {real.shape[1]} dimensions, synthetic {synthetic.shape[1]}; use one extractor"
        )
