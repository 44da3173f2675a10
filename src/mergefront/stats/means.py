"""Means and paired differences of clustered scores, with their intervals.

Shapes: N scores, G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergefront.records import Estimate
from mergefront.seeds import Purpose, generator

CONFIDENCE = 0.95
_CHUNK = 250  # resamples at a time: bounds memory at many clusters


@dataclass(frozen=True)
class Interval:
    """A difference of means, or a hypervolume, with its interval and standard error."""

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
    labels, n_clusters = cluster_labels(scores, clusters)
    mean = float(scores.mean())
    return Estimate(mean, standard_error(scores - mean, labels, n_clusters), len(scores))


def wilson(
    estimate: Estimate, confidence: float = CONFIDENCE, *, clusters: int | None = None
) -> tuple[float, float]:
    """Return Wilson's interval of a mean in [0, 1]: for display, sensible also at 0 and 1.

    Clustering enters as an effective number of items, mean (1 - mean) / se^2, at most n. Coverage
    of 95 % intervals at 60 to 500 clusters: 94.1 to 95.8 % (3,000 runs a cell). Where the error
    says nothing (all items alike, or one cluster) only the number of `clusters`, if given, counts.

    Reference: Wilson, Probable Inference, JASA 22 (1927); Dean and Pagano, Evaluating confidence
    interval methods for binomial proportions in clustered surveys, JSSAM 3 (2015).
    """
    p, spread = estimate.mean, estimate.mean * (1.0 - estimate.mean)
    n = float(estimate.n)
    if spread > 0 and estimate.se > 0:
        n = min(n, spread / estimate.se**2)
    elif clusters is not None:
        n = min(n, float(clusters))
    z2 = normal_quantile(0.5 + confidence / 2) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (spread / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def normal_interval(estimate: Estimate, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return mean -+ z se within [0, 1]: for display, where scores vary far less than marks do.

    Wilson's interval takes scores for right or wrong; of answers that hardly differ in length it
    would be many times too wide. Coverage of 95 % intervals of mean lengths, log-normal and cut off
    at a limit, at 60 to 500 clusters: 93.7 to 95.2 % (3,000 runs a cell). Where the error says
    nothing (one cluster) it is [0, 1].
    """
    if math.isnan(estimate.se):
        return 0.0, 1.0
    half = normal_quantile(0.5 + confidence / 2) * estimate.se
    return max(0.0, estimate.mean - half), min(1.0, estimate.mean + half)


def score_interval(estimate: Estimate) -> tuple[float, float]:
    """Return the 95 % interval that is shown of a mean score: Wilson's, or a cost's normal one."""
    return wilson(estimate) if estimate.tokens is None else normal_interval(estimate)


def paired_difference(
    a_N: ArrayLike, b_N: ArrayLike, clusters: Sequence[Hashable], *, confidence: float = CONFIDENCE
) -> Interval:
    """Return mean(a - b) over the same items, with a cluster-robust t interval (CR1, G - 1 df).

    Coverage of 95 % intervals at 60 to 500 clusters, for single items and clusters of unequal size,
    common and rare answers: 94.2 to 95.6 % (3,000 runs a cell). A clustered bootstrap does no
    better (`paired_bootstrap`), and it is random. With one cluster nothing is known: the interval
    is [-1, 1], the error NaN.

    Raises:
        ValueError: no scores, or lengths that differ.
    """
    from scipy.special import stdtrit

    a, b = paired(a_N, b_N)
    difference = a - b
    labels, n_clusters = cluster_labels(difference, clusters)
    mean = float(difference.mean())
    se = standard_error(difference - mean, labels, n_clusters)
    if math.isnan(se):
        return Interval(mean, -1.0, 1.0, se)
    half = float(stdtrit(n_clusters - 1, 0.5 + confidence / 2)) * se
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), se)


def paired_bootstrap(
    a_N: ArrayLike,
    b_N: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return mean(a - b) with a basic (reverse percentile) interval over resampled clusters.

    Whole clusters are drawn with replacement, as many as there are; the mean of a draw is over its
    items. A function of its arguments: one seed gives one interval. `paired_difference` is the
    default everywhere, since it covers better and is not random; this one is the check on it that
    assumes no t distribution. Coverage of 95 % intervals in the same cells: 92.7 to 95.3 % (1,000
    runs a cell). With one cluster nothing is known, as there.

    Reference: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8
    and 5.2.

    Raises:
        ValueError: no scores, lengths that differ, or fewer than two resamples.
    """
    a, b = paired(a_N, b_N)
    if resamples < 2:
        raise ValueError(f"{resamples} resamples; at least 2 are needed")
    difference = a - b
    labels, count = cluster_labels(difference, clusters)
    mean = float(difference.mean())
    if count < 2:
        return Interval(mean, -1.0, 1.0, math.nan)
    sums_G2 = np.stack([np.bincount(labels, weights=difference), np.bincount(labels)], axis=1)
    rng = generator(seed, Purpose.DIFFERENCE_BOOTSTRAP)
    means_B = np.empty(resamples)
    for start in range(0, resamples, _CHUNK):
        drawn = min(_CHUNK, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=drawn)
        totals_B2 = weights @ sums_G2
        means_B[start : start + drawn] = totals_B2[:, 0] / totals_B2[:, 1]
    low, high = np.quantile(means_B, [0.5 - confidence / 2, 0.5 + confidence / 2])
    lower, upper = max(-1.0, 2 * mean - float(high)), min(1.0, 2 * mean - float(low))
    return Interval(mean, lower, upper, float(means_B.std(ddof=1)))


def cluster_labels(
    scores_N: NDArray[np.float64], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.intp], int]:
    """Return a cluster index for each score, and the number of clusters.

    Raises:
        ValueError: no scores, or not one cluster for each.
    """
    if scores_N.ndim != 1 or not len(scores_N):
        raise ValueError("scores must be a list of at least one number")
    if len(clusters) != len(scores_N):
        raise ValueError(f"{len(scores_N)} scores, {len(clusters)} clusters")
    index = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    return np.array([index[label] for label in clusters], dtype=np.intp), len(index)


def paired(a_N: ArrayLike, b_N: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both lists of scores as arrays.

    Raises:
        ValueError: their lengths differ.
    """
    a, b = np.asarray(a_N, dtype=float), np.asarray(b_N, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired scores of {a.size} and {b.size} items")
    return a, b


def standard_error(
    residuals_N: NDArray[np.float64], labels_N: NDArray[np.intp], n_clusters: int
) -> float:
    """Return CR1 for a mean: sqrt(G / (G - 1) * sum over clusters of squared residual sums) / N.

    NaN with fewer than two clusters. Reference: Cameron and Miller, Journal of Human Resources 50
    (2015), section II.
    """
    if n_clusters < 2:
        return math.nan
    sums_G = np.bincount(labels_N, weights=residuals_N, minlength=n_clusters)
    factor = n_clusters / (n_clusters - 1)
    return math.sqrt(factor * float(sums_G @ sums_G)) / len(residuals_N)


def normal_quantile(probability: float) -> float:
    """Return a quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(probability))
