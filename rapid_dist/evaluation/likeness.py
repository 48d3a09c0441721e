"""How like the reference images the samples are: Frechet distance, precision, recall, density and coverage."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import torch

from rapid_dist.errors import InputError
from rapid_dist.evaluation.features import FeatureExtractor
from rapid_dist.evaluation.inputs import check_features


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


class _FeaturesAsImages(torch.nn.Module):
    """Lets torchmetrics take features where it expects images."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


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

    Computed by torchmetrics in float64. Both sets are first moved by the real mean, which changes nothing in
    exact arithmetic and keeps the covariances exact when the mean is large. Below zero only by rounding: clipped to 0.

    real_features: (N, d), synthetic_features: (M, d) floats, N, M >= 2. Cost: d^3.
    Raises InputError for other shapes or non-finite values.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check_pair(real_features, synthetic_features)
    centre = real_features.mean(axis=0, dtype=np.float64)
    metric = FrechetInceptionDistance(feature=_FeaturesAsImages(real_features.shape[1]))
    metric.update(torch.from_numpy(real_features - centre), real=True)
    metric.update(torch.from_numpy(synthetic_features - centre), real=False)
    return max(0.0, float(metric.compute()))


def precision_recall_density_coverage(
    real: np.ndarray, synthetic: np.ndarray, nearest_k: int = 5, max_examples: int = 5000, seed: int = 0
) -> dict[str, float]:
    """Returns precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    All four depend on the counts, so both sets are cut by seed to one size: the smaller one, at most max_examples.
    Memory: about three max_examples^2 float32 matrices.

    real: (N, d), synthetic: (M, d) float features.
    Raises InputError when fewer than nearest_k + 2 examples are left.
    """
    from prdc import compute_prdc

    _check_pair(real, synthetic)
    count = min(len(real), len(synthetic), max_examples)
    if nearest_k < 1 or count < nearest_k + 2:
        raise InputError(f"{count} examples a side and nearest_k={nearest_k}; expected at least nearest_k + 2")
    rng = np.random.default_rng(seed)
    chosen = [x[rng.choice(len(x), count, replace=False)] for x in (real, synthetic)]
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints its counts
        shares = compute_prdc(*chosen, nearest_k=nearest_k)
    return {name: float(shares[name]) for name in ("precision", "recall", "density", "coverage")}


def _check_pair(real: np.ndarray, synthetic: np.ndarray) -> None:
    check_features(real, "real features")
    check_features(synthetic, "synthetic features")
    if real.shape[1] != synthetic.shape[1]:
        raise InputError(
            f"real features have {real.shape[1]} dimensions, synthetic {synthetic.shape[1]}; use one extractor"
        )
