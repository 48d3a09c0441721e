"""One private release of what a class looks like: count, mean and second moment of its records' vectors, in one sum.

Each record adds one vector to the block of its class, (a, b z, c z z^T) with z clipped to the norm R. The weights make
the squared norm of what it adds at most 1, so the joint sum is one Gaussian mechanism with sensitivity 1 under
add-or-remove-one, as in DP-MERF (Harder et al. 2021) with moments for random features. What is fitted to the released
numbers afterwards is post-processing:

>>> terms = StatisticsTerms(num_classes=2, dim=3, clip_norm=2.0)
>>> sums = sum_statistics(np.ones((5, 3)), np.array([0, 1, 1, 1, 0]), terms)
>>> fitted = fit_gaussians(sums, terms, noise_multiplier=0.01)
>>> fitted.mean[1].round(3).tolist()
[1.0, 1.0, 1.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rapid_dist.errors import InputError, SpecError
from rapid_dist.privacy.charges import Charge

PURPOSE = "class statistics"
# Weights are smaller by this, so that rounding in float64 never lifts what one record changes above 1: in its own norm
# and products by about 1e-15, and in the sums, whose last bits the other records move too, by about 1e-16 n^(3/2) for n
# records, which stays below it up to tens of millions.
_ROUNDING = 1 - 2.0**-16
# A class with fewer records than this, after noise, is fitted as if it had so many: nothing is divided by about 0.
_LEAST_COUNT = 20.0
# A class is halved as long as noise reaches no eigenvalue above this, in units of a public coordinate's variance, and
# at most so often: a release has 2^6 blocks a class then.
_CLEAR_NOISE, _MOST_HALVINGS = 0.75, 6


def statistics_charge(noise_multiplier: float) -> Charge:
    """Returns what the release costs: the Gaussian mechanism once, on all records."""
    return Charge(
        mechanism="gaussian", noise_multiplier=noise_multiplier, sample_rate=1.0, num_steps=1, purpose=PURPOSE
    )


@dataclass(frozen=True, kw_only=True)
class StatisticsTerms:
    """The public constants of a release.

    Attributes:
        num_classes: A public constant, never counted.
        dim: Coordinates of a record's vector.
        clip_norm: The L2 norm R that vectors are clipped to.
        count_share, mean_share: Shares of a record's squared norm; the second moment has the rest. A larger share
            gets less noise.
        halvings: How many leading coordinates part each class in two, at 0, before anything is summed. A record lies in
            one part, so that the sensitivity stays what it is.

    Raises:
        SpecError: A value is outside its range.
    """

    num_classes: int
    dim: int
    clip_norm: float
    count_share: float = 0.02
    mean_share: float = 0.2
    halvings: int = 0

    def __post_init__(self) -> None:
        if self.num_classes < 1 or self.dim < 1 or not self.clip_norm > 0 or not 0 <= self.halvings <= self.dim:
            raise SpecError(f"got {self}; expected num_classes, dim and clip_norm above 0, and halvings from 0 to dim")
        if not (self.count_share > 0 and self.mean_share > 0 and self.count_share + self.mean_share < 1):
            raise SpecError(
                f"count_share is {self.count_share} and mean_share {self.mean_share}; expected positive shares with a "
                "sum below 1"
            )

    @property
    def weights(self) -> tuple[float, float, float]:
        """The factors a, b, c of the count, the vector and its second moment: a^2 + b^2 R^2 + c^2 R^4 is below 1."""
        second_share = 1 - self.count_share - self.mean_share
        count, mean, second = np.sqrt([self.count_share, self.mean_share, second_share]) * _ROUNDING
        return float(count), float(mean) / self.clip_norm, float(second) / self.clip_norm**2

    @property
    def num_parts(self) -> int:
        """Parts of a class, each with a block of the sum."""
        return 2**self.halvings

    @property
    def size(self) -> int:
        """Numbers released for a part: 1, dim, and dim (dim + 1) / 2 for a symmetric matrix."""
        return 1 + self.dim + self.dim * (self.dim + 1) // 2


def clip_rows(vectors: np.ndarray, clip_norm: float) -> np.ndarray:
    """Returns vectors (n, d) float64 scaled down to an L2 norm of at most clip_norm; one that is not finite is zero.

    Guarantee: row i is a function of row i alone.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    is_finite = np.isfinite(vectors).all(axis=1, keepdims=True)
    finite = np.where(is_finite, vectors, 0.0)
    # In units of the largest coordinate, since the square of a number near the largest float would be infinite.
    unit = np.abs(finite).max(axis=1, keepdims=True, initial=0.0)
    scaled = finite / np.where(unit > 0, unit, 1.0)
    limit = clip_norm / np.maximum(np.sqrt(np.square(scaled).sum(axis=1, keepdims=True)), 1.0)
    return np.where(unit <= limit, finite, scaled * limit)


def sum_statistics(vectors: np.ndarray, label: np.ndarray, terms: StatisticsTerms) -> np.ndarray:
    """Returns the sum of what the records add, (num_classes * num_parts, size) float64; it is private.

    Sums of disjoint sets of records add up. A record whose label is no class adds nothing. The parts of class c are
    rows c * num_parts and on.

    Args:
        vectors: (n, dim), one a record.
        label: (n,) integers.

    Guarantee: one record changes one row of the result, by an L2 norm of at most 1.

    Raises:
        InputError: The arrays have other shapes.
    """
    vectors, label = np.asarray(vectors), np.asarray(label)
    if vectors.ndim != 2 or vectors.shape[1] != terms.dim or label.shape != vectors.shape[:1]:
        raise InputError(
            f"got vectors of shape {vectors.shape} and labels of shape {label.shape}; expected (n, {terms.dim}), (n,)"
        )
    count, mean, second = terms.weights
    rows, columns, off_diagonal = _upper(terms.dim)
    sums = np.zeros((terms.num_classes * terms.num_parts, terms.size))
    block = _blocks(vectors, label, terms)
    for c in range(len(sums)):
        clipped = clip_rows(vectors[block == c], terms.clip_norm)
        # sqrt(2) off the diagonal: the norm of the upper half is then the Frobenius norm of the whole matrix.
        moments = (clipped.T @ clipped)[rows, columns] * off_diagonal
        sums[c] = np.concatenate([[count * len(clipped)], mean * clipped.sum(axis=0), second * moments])
    return sums


def _blocks(vectors: np.ndarray, label: np.ndarray, terms: StatisticsTerms) -> np.ndarray:
    """The row that each record adds to, (n,) int64, by its class and the signs of its leading coordinates; -1: none.

    Guarantee: entry i is a function of row i alone.
    """
    side = (vectors[:, : terms.halvings] > 0) @ (2 ** np.arange(terms.halvings))  # not a number is not above 0
    is_class = (label >= 0) & (label < terms.num_classes)
    return np.where(is_class, label * terms.num_parts + side, -1).astype(np.int64)


def affordable_halvings(terms: StatisticsTerms, *, noise_multiplier: float, records_per_class: float) -> int:
    """Returns how often a class may be halved before noise drowns its parts; a function of public constants.

    The noise of a part's second moment reaches the eigenvalue s sqrt(2 dim), see fit_gaussians, with half the records
    after each halving. The variance of a public coordinate is about 1.
    """
    least = _LEAST_COUNT
    scale = noise_multiplier / terms.weights[2] * np.sqrt(2 * terms.dim)
    halvings = 0
    while halvings < _MOST_HALVINGS and scale / max(records_per_class / 2 ** (halvings + 1), least) <= _CLEAR_NOISE:
        halvings += 1
    return min(halvings, terms.dim)


def _upper(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the upper half of a symmetric matrix, and the weight of each of its entries."""
    rows, columns = np.triu_indices(dim)
    return rows, columns, np.where(rows == columns, 1.0, np.sqrt(2.0))


@dataclass(frozen=True, kw_only=True)
class ClassGaussians:
    """A Gaussian for each part of each class, fitted to released numbers.

    Attributes:
        count: (classes * parts,) noisy numbers of records.
        share: (classes, parts), each row a distribution: how often a draw of the class is one of the part.
        mean: (classes * parts, dim).
        factor: (classes * parts, dim, dim); factor @ factor.T is the covariance.
        clip_norm: Draws are clipped to this norm, as the records were.
    """

    count: np.ndarray
    share: np.ndarray
    mean: np.ndarray
    factor: np.ndarray
    clip_norm: float

    def draw(self, label: np.ndarray, uniform: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Returns a vector for each row, (n, dim) float64: the mean of a part of its class plus factor @ normals.

        The result is clipped.

        Args:
            label: (n,) classes.
            uniform: (n,) in [0, 1), which choose the parts by their shares.
            normals: (n, dim) standard normal draws.
        """
        parts = self.share.shape[1]
        chosen = (self.share.cumsum(axis=1)[label, :-1] <= uniform[:, None]).sum(axis=1)
        block = label * parts + chosen
        moved = np.empty((len(label), self.mean.shape[1]))
        for b in np.unique(block):  # one product a part: a factor for each row would take n dim^2 numbers
            rows = block == b
            moved[rows] = np.einsum("ij,nj->ni", self.factor[b], normals[rows])
        return clip_rows(self.mean[block] + moved, self.clip_norm)


def fit_gaussians(
    noisy: np.ndarray, terms: StatisticsTerms, *, noise_multiplier: float, spread: float = 1.0
) -> ClassGaussians:
    """Fits a Gaussian to each part's released numbers; post-processing, which costs nothing.

    Directions whose variance is below what noise alone would show cannot be told apart: the noise in a second moment is
    a symmetric matrix with off-diagonal variance s^2 / 2, whose eigenvalues reach s sqrt(2 dim) (Wigner's semicircle),
    where s is the noise on one diagonal entry over the count. They share evenly what the others leave of the total
    variance, the trace, which the noise moves by s sqrt(dim) only.

    Args:
        noisy: (num_classes * num_parts, size), the sum with noise.
        noise_multiplier: The standard deviation of that noise.
        spread: The factor on a draw's distance from the mean of its class. Above 1, draws are clipped that much later.
    """
    count_weight, mean_weight, second_weight = terms.weights
    dim, (rows, columns, off_diagonal) = terms.dim, _upper(terms.dim)
    count = np.maximum(noisy[:, 0] / count_weight, _LEAST_COUNT)
    mean = noisy[:, 1 : 1 + dim] / mean_weight / count[:, None]
    second = np.zeros((len(noisy), dim, dim))
    second[:, rows, columns] = noisy[:, 1 + dim :] / second_weight / off_diagonal / count[:, None]
    second[:, columns, rows] = second[:, rows, columns]
    values, directions = np.linalg.eigh(second - mean[:, :, None] * mean[:, None, :])
    edge = noise_multiplier / second_weight / count[:, None] * np.sqrt(2 * dim)
    is_kept = values > edge
    kept = np.where(is_kept, values, 0.0)
    left = values.sum(axis=1) - kept.sum(axis=1)
    share = left / np.maximum((~is_kept).sum(axis=1), 1)
    # What is told apart has more variance than what is not, so the share stays below the least of it.
    share = np.clip(share, 0.0, np.where(is_kept, values, np.inf).min(axis=1))
    variance = np.where(is_kept, values, share[:, None])
    return ClassGaussians(
        count=count,
        share=_shares(noisy[:, 0], terms, noise_multiplier),
        mean=mean,
        factor=spread * directions * np.sqrt(variance)[:, None, :],
        clip_norm=terms.clip_norm * max(1.0, spread),
    )


def _shares(noisy_count: np.ndarray, terms: StatisticsTerms, noise_multiplier: float) -> np.ndarray:
    """How often each part of a class is drawn, (classes, parts). A part that may well be empty never is."""
    clear = np.where(noisy_count > 3 * noise_multiplier, noisy_count, 0.0)  # 3 deviations: 1 empty part in 740 passes
    share = clear.reshape(terms.num_classes, terms.num_parts)
    share = np.where(share.sum(axis=1, keepdims=True) > 0, share, 1.0)
    return share / share.sum(axis=1, keepdims=True)
