"""Clusters as integers, the cluster-robust standard error, and quantiles.

Shapes: N scores, G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """An estimate with its interval: a difference of means, or a hypervolume."""

    mean: float
    low: float
    high: float
    se: float


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


def t_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
