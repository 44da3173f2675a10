"""Error bars: means of clustered items, paired differences, hypervolumes.

Items of one cluster (same problem, pair or image) are not independent, so clusters are what is
counted, resampled and compared. Nothing here knows where scores come from.

Every interval says in its docstring how often it covered the truth when simulated; the simulation
is `benchmarks/coverage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mergefront.pareto import hypervolume
from mergefront.records import Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_CONFIDENCE = 0.95
_PURPOSE = 30  # of derived seeds


@dataclass(frozen=True)
class Difference:
    """An estimate with its interval: a difference of means, or a hypervolume."""

    mean: float
    low: float
    high: float
    se: float


def estimate(scores_N: ArrayLike, clusters: Sequence[Hashable]) -> Estimate:
    """Return the mean of item scores in [0, 1] with its cluster-robust standard error (CR1).

    With every item its own cluster this is the usual standard error of a mean. It is NaN with
    one cluster only.

    Reference: Cameron and Miller, A Practitioner's Guide to Cluster-Robust Inference, Journal of
    Human Resources 50 (2015), section II.

    Raises:
        ValueError: no scores, or not one cluster for each.
    """
    scores = np.asarray(scores_N, dtype=float)
    labels, n_clusters = _clusters(scores, clusters)
    mean = float(scores.mean())
    return Estimate(mean, _standard_error(scores - mean, labels, n_clusters), len(scores))


def wilson(estimate: Estimate, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's interval of a mean in [0, 1]: for display, sensible also at 0 and 1.

    Clustering enters as an effective number of items, mean (1 - mean) / se^2, at most n.

    Reference: Wilson, Probable Inference, JASA 22 (1927); Dean and Pagano, Evaluating confidence
    interval methods for binomial proportions in clustered surveys, JSSAM 3 (2015).
    """
    p, spread = estimate.mean, estimate.mean * (1.0 - estimate.mean)
    n = float(estimate.n)
    if spread > 0 and estimate.se > 0:
        n = min(n, spread / estimate.se**2)
    z2 = _normal_quantile(0.5 + confidence / 2) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (spread / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    a_N: ArrayLike, b_N: ArrayLike, clusters: Sequence[Hashable], *, confidence: float = _CONFIDENCE
) -> Difference:
    """Return mean(a - b) over the same items, with a cluster-robust t interval (CR1, G - 1 df).

    Coverage of 95 % intervals at 60, 100 and 150 clusters, for single items and clusters of
    unequal size, common and rare answers: 94.3 to 95.6 % (3,000 runs a cell). A clustered
    bootstrap did no better in such cells (basic 93.6 to 99.5 %, percentile 92.4 to 96.7 %), and
    it is random.
    With one cluster nothing is known: the interval is [-1, 1], the error NaN.

    Raises:
        ValueError: no scores, or lengths that differ.
    """
    a, b = np.asarray(a_N, dtype=float), np.asarray(b_N, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired scores of {a.size} and {b.size} items")
    difference = a - b
    labels, n_clusters = _clusters(difference, clusters)
    mean = float(difference.mean())
    se = _standard_error(difference - mean, labels, n_clusters)
    if math.isnan(se):
        return Difference(mean, -1.0, 1.0, se)
    half = _t_quantile(0.5 + confidence / 2, n_clusters - 1) * se
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), se)


def hypervolume_interval(
    scores: Sequence[ArrayLike],
    clusters: Sequence[Sequence[Hashable]],
    reference_M: Sequence[float],
    *,
    confidence: float = _CONFIDENCE,
    n_boot: int = 2000,
    seed: int = 0,
) -> Difference:
    """Return the hypervolume of a fixed set of members, corrected for the noise of its scores.

    `scores` holds one K x N_m array for each objective (K members, the N_m items of objective m),
    `clusters` the clusters of those items; a cluster that occurs in several objectives is
    resampled as one. The maximum over noisy members is too large, so the value is
    2 HV - mean(HV*) over bootstrap samples of clusters, and the interval the basic (reverse
    percentile) one. Coverage of 95 % intervals for five members: 93 to 96 % at 100 to 2,000
    clusters, 91 to 93 % at 60 (600 to 1,500 runs a cell). Members that lie well apart are
    corrected a little too much (-1 to -2 % of the value).

    Raises:
        ValueError: shapes that do not fit.
    """
    tables = [np.atleast_2d(np.asarray(table, dtype=float)) for table in scores]
    resampled = _Resampled(tables, clusters, n_boot, seed)
    reference = np.asarray(reference_M, dtype=float)
    value = hypervolume(resampled.means_KM, reference)
    return _basic(value, _volumes(resampled.means_BKM, reference), confidence, floor=0.0)


def hypervolume_difference(
    a_scores: Sequence[ArrayLike],
    b_scores: Sequence[ArrayLike],
    clusters: Sequence[Sequence[Hashable]],
    reference_M: Sequence[float],
    *,
    confidence: float = _CONFIDENCE,
    n_boot: int = 2000,
    seed: int = 0,
) -> Difference:
    """Return HV(a) - HV(b) of two fixed sets of members that answered the same items (paired).

    Arguments as in `hypervolume_interval`, the sets may differ in size; corrected and bounded the
    same way.
    """
    reference = np.asarray(reference_M, dtype=float)
    sides = []
    for side in (a_scores, b_scores):
        tables = [np.atleast_2d(np.asarray(table, dtype=float)) for table in side]
        resampled = _Resampled(tables, clusters, n_boot, seed)  # same seed: same clusters
        value = hypervolume(resampled.means_KM, reference)
        sides.append((value, _volumes(resampled.means_BKM, reference)))
    (a_value, a_B), (b_value, b_B) = sides
    return _basic(a_value - b_value, a_B - b_B, confidence, floor=-math.inf)


class _Resampled:
    """Mean scores of K members on M objectives: as they are, and under B draws of clusters."""

    def __init__(
        self,
        tables: Sequence[NDArray[np.float64]],
        clusters: Sequence[Sequence[Hashable]],
        n_boot: int,
        seed: int,
    ) -> None:
        if len(tables) != len(clusters):
            raise ValueError(f"{len(tables)} objectives, clusters for {len(clusters)}")
        index = {
            label: i for i, label in enumerate(dict.fromkeys(c for cs in clusters for c in cs))
        }
        rng = np.random.default_rng(np.random.SeedSequence([seed, _PURPOSE]))
        counts = len(index)
        weights_BG = rng.multinomial(counts, np.full(counts, 1 / counts), size=n_boot).astype(float)
        means, resampled = [], []
        for table_KN, labels in zip(tables, clusters, strict=True):
            if table_KN.shape[1] != len(labels):
                raise ValueError(f"{table_KN.shape[1]} items, {len(labels)} clusters")
            place_N = np.array([index[label] for label in labels])
            sums_KG = np.array([np.bincount(place_N, row, counts) for row in table_KN])
            sums_BK = weights_BG @ sums_KG.T
            items_B = weights_BG @ np.bincount(place_N, minlength=counts)
            means.append(table_KN.mean(axis=1))
            resampled.append(sums_BK / np.maximum(items_B, 1)[:, None])
        self.means_KM = np.stack(means, axis=-1)
        self.means_BKM = np.stack(resampled, axis=-1)


def _volumes(
    means_BKM: NDArray[np.float64], reference_M: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return B hypervolumes; two objectives in one sweep for all B, else one by one."""
    if means_BKM.shape[-1] != 2:
        return np.array([hypervolume(points_KM, reference_M) for points_KM in means_BKM])
    above_BK2 = np.maximum(means_BKM - reference_M, 0.0)
    order_BK = np.argsort(-above_BK2[..., 0], axis=1, kind="stable")
    width_BK = np.take_along_axis(above_BK2[..., 0], order_BK, axis=1)
    height_BK = np.take_along_axis(above_BK2[..., 1], order_BK, axis=1)
    height_BK = np.maximum.accumulate(height_BK, axis=1)
    rise_BK = np.diff(height_BK, axis=1, prepend=0.0)
    return np.asarray((width_BK * rise_BK).sum(axis=1))


def _basic(
    value: float, resampled_B: NDArray[np.float64], confidence: float, floor: float
) -> Difference:
    low, high = np.quantile(resampled_B, [0.5 - confidence / 2, 0.5 + confidence / 2])
    corrected = [2 * value - x for x in (float(resampled_B.mean()), float(high), float(low))]
    mean, lower, upper = (max(floor, x) for x in corrected)
    return Difference(mean, lower, upper, float(resampled_B.std(ddof=1)))


def _clusters(
    scores_N: NDArray[np.float64], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.intp], int]:
    """Return a cluster index for each score, and the number of clusters."""
    if scores_N.ndim != 1 or not len(scores_N):
        raise ValueError("scores must be a list of at least one number")
    if len(clusters) != len(scores_N):
        raise ValueError(f"{len(scores_N)} scores, {len(clusters)} clusters")
    index = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    return np.array([index[label] for label in clusters], dtype=np.intp), len(index)


def _standard_error(
    residuals_N: NDArray[np.float64], labels_N: NDArray[np.intp], n_clusters: int
) -> float:
    """CR1 for a mean: sqrt(G / (G - 1) * sum over clusters of squared residual sums) / N."""
    if n_clusters < 2:
        return math.nan
    sums_G = np.bincount(labels_N, weights=residuals_N, minlength=n_clusters)
    factor = n_clusters / (n_clusters - 1)
    return math.sqrt(factor * float(sums_G @ sums_G)) / len(residuals_N)


def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


def _t_quantile(probability: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
