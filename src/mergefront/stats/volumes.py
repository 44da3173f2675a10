"""Hypervolumes with error bars: one set of members, or the difference of two."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergefront.seeds import Purpose, generator
from mergefront.stats.means import CONFIDENCE, Interval
from mergefront.stats.pareto import hypervolume


def hypervolume_interval(
    scores: Sequence[ArrayLike],
    clusters: Sequence[Sequence[Hashable]],
    reference_M: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    n_boot: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the hypervolume of a fixed set of members, corrected for the noise of its scores.

    `scores` holds one K x N_m array for each objective (K members, the N_m items of objective m),
    `clusters` the clusters of those items; a cluster that occurs in several objectives is
    resampled as one. The maximum over noisy members is too large, so the value is
    2 HV - mean(HV*) over bootstrap samples of clusters, and the interval the basic (reverse
    percentile) one. Coverage of 95 % intervals for five members: 93.6 to 94.2 % at 100 to 2,000
    clusters, 91.7 to 93.2 % at 60 (600 to 1,500 runs a cell). Members that lie well apart are
    corrected a little too much (-1 to -2 % of the value).

    Raises:
        ValueError: shapes that do not fit.
    """
    value, resampled_B = _resampled(scores, clusters, reference_M, n_boot, seed)
    return _basic(value, resampled_B, confidence, floor=0.0)


def hypervolume_difference(
    a_scores: Sequence[ArrayLike],
    b_scores: Sequence[ArrayLike],
    clusters: Sequence[Sequence[Hashable]],
    reference_M: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    n_boot: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return HV(a) - HV(b) of two fixed sets of members that answered the same items (paired).

    Arguments as in `hypervolume_interval`, the sets may differ in size; corrected and bounded the
    same way. Coverage of 95 % intervals: 94.0 to 95.5 % in the same cells.
    """
    (a_value, a_B), (b_value, b_B) = (
        _resampled(side, clusters, reference_M, n_boot, seed)  # same seed: same clusters
        for side in (a_scores, b_scores)
    )
    return _basic(a_value - b_value, a_B - b_B, confidence, floor=-math.inf)


def _resampled(
    scores: Sequence[ArrayLike],
    clusters: Sequence[Sequence[Hashable]],
    reference_M: Sequence[float],
    n_boot: int,
    seed: int,
) -> tuple[float, NDArray[np.float64]]:
    """Return the hypervolume of mean scores: as they are, and under B draws of clusters."""
    if len(scores) != len(clusters):
        raise ValueError(f"{len(scores)} objectives, clusters for {len(clusters)}")
    index = {label: i for i, label in enumerate(dict.fromkeys(c for cs in clusters for c in cs))}
    rng = generator(seed, Purpose.HYPERVOLUME_BOOTSTRAP)
    counts = len(index)
    weights_BG = rng.multinomial(counts, np.full(counts, 1 / counts), size=n_boot).astype(float)
    means, resampled = [], []
    for table, labels in zip(scores, clusters, strict=True):
        table_KN = np.atleast_2d(np.asarray(table, dtype=float))
        if table_KN.shape[1] != len(labels):
            raise ValueError(f"{table_KN.shape[1]} items, {len(labels)} clusters")
        place_N = np.array([index[label] for label in labels])
        sums_KG = np.array([np.bincount(place_N, row, counts) for row in table_KN])
        sums_BK = weights_BG @ sums_KG.T
        items_B = weights_BG @ np.bincount(place_N, minlength=counts)
        means.append(table_KN.mean(axis=1))
        resampled.append(sums_BK / np.maximum(items_B, 1)[:, None])
    reference = np.asarray(reference_M, dtype=float)
    value = hypervolume(np.stack(means, axis=-1), reference)
    return value, _volumes(np.stack(resampled, axis=-1), reference)


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
) -> Interval:
    low, high = np.quantile(resampled_B, [0.5 - confidence / 2, 0.5 + confidence / 2])
    corrected = [2 * value - x for x in (float(resampled_B.mean()), float(high), float(low))]
    mean, lower, upper = (max(floor, x) for x in corrected)
    return Interval(mean, lower, upper, float(resampled_B.std(ddof=1)))
