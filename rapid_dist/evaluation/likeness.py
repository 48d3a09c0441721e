"""How like the reference images the samples are: Frechet distance, precision, recall, density and coverage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
