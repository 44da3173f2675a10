"""Fronts: who dominates whom, how much a set covers, and which member is the balanced one.

All objectives are maximised. This module knows points, not candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def non_dominated(points_NM: ArrayLike) -> NDArray[np.intp]:
    """Return the indices (ascending) of the points that no other point dominates.

    A point dominates another if it is nowhere smaller and somewhere larger. Equal points do not
    dominate each other: of duplicates on the front, all are returned. A point with a NaN is never
    on the front and dominates nothing.
    """
    points = _points(points_NM)
    usable = ~np.isnan(points).any(axis=1)
    keep = [i for i in np.flatnonzero(usable) if not _dominated(points[i], points[usable])]
    return np.array(keep, dtype=np.intp)


def hypervolume(points_NM: ArrayLike, reference_M: ArrayLike) -> float:
    """Return the volume that the points dominate above the reference point, exactly.

    Points that do not exceed the reference in every objective add nothing. One to four
    objectives: sweeps in one and two; moarchiving beyond (Fonseca et al. 2006; Guerreiro and
    Fonseca 2018).

    Raises:
        ValueError: more than four objectives, or a reference of another length.
    """
    points = _points(points_NM)
    reference = np.asarray(reference_M, dtype=float)
    if len(points) and points.shape[1] != len(reference):
        raise ValueError(f"points of {points.shape[1]} objectives, reference of {len(reference)}")
    if not 1 <= len(reference) <= 4:
        raise ValueError(f"hypervolume of {len(reference)} objectives; 1 to 4 are supported")
    points = points[(points > reference).all(axis=1)] if len(points) else points
    if not len(points):
        return 0.0
    if len(reference) == 1:
        return float(points.max() - reference[0])
    if len(reference) == 2:
        return _area(points, reference)
    from moarchiving import get_mo_archive

    archive = get_mo_archive((-points).tolist(), reference_point=(-reference).tolist())
    return float(archive.hypervolume)


def covering(
    points_NM: ArrayLike, reference_M: ArrayLike, most: int, kept: Sequence[int] = ()
) -> list[int]:
    """Return at most `most` indices, ascending, of points that together cover much hypervolume.

    Greedy: each next point adds most to those chosen before, the first of equals; at least 63 % of
    what the best subset of that size covers. When no point adds any more, fewer are returned. The
    points in `kept` are chosen before all others.

    Reference: Guerreiro, Fonseca and Paquete, Greedy Hypervolume Subset Selection in Low
    Dimensions, Evolutionary Computation 24 (2016).
    """
    points = _points(points_NM)
    chosen = list(kept)[:most]
    covered = hypervolume(points[chosen], reference_M)
    while len(chosen) < min(most, len(points)):
        volumes = [hypervolume(points[[*chosen, i]], reference_M) for i in range(len(points))]
        best = int(np.argmax(volumes))
        if volumes[best] <= covered:
            break
        chosen.append(best)
        covered = volumes[best]
    return sorted(chosen)


def knee(points_NM: ArrayLike) -> int:
    """Return the index of the balanced member of a front: the knee.

    Objectives are scaled to [0, 1] over the points. Of the members that are not dominated, it is
    the one farthest above the hyperplane through the scaled unit points (with two objectives: the
    line that joins the two extremes), which is the one with the largest sum of scaled objectives.
    Ties go to the smaller spread between scaled objectives, then to the first. An objective that
    does not vary is left out; a single point is its own knee.

    Reference: Das, On characterizing the "knee" of the Pareto curve based on normal-boundary
    intersection, Structural Optimization 18 (1999).

    Raises:
        ValueError: no point without NaN.
    """
    points = _points(points_NM)
    front = non_dominated(points)
    if not len(front):
        raise ValueError("the knee of no points")
    members = points[front]
    span = members.max(axis=0) - members.min(axis=0)
    varies = span > 0
    if not varies.any():
        return int(front[0])
    scaled = (members[:, varies] - members[:, varies].min(axis=0)) / span[varies]
    spread = scaled.max(axis=1) - scaled.min(axis=1)
    order = np.lexsort((np.arange(len(front)), spread, -np.round(scaled.sum(axis=1), 12)))
    return int(front[order[0]])


def _points(points_NM: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(points_NM, dtype=float)
    return points.reshape(0, 0) if points.size == 0 else np.atleast_2d(points)


def _dominated(point_M: NDArray[np.float64], points_NM: NDArray[np.float64]) -> bool:
    at_least = (points_NM >= point_M).all(axis=1)
    return bool((at_least & (points_NM > point_M).any(axis=1)).any())


def _area(points_N2: NDArray[np.float64], reference_2: NDArray[np.float64]) -> float:
    """Sweep from the largest first objective down, adding the strip each point rises above."""
    ordered = points_N2[np.lexsort((-points_N2[:, 1], -points_N2[:, 0]))]
    height = np.maximum.accumulate(ordered[:, 1])
    before = np.concatenate([[reference_2[1]], height[:-1]])
    return float(np.sum((ordered[:, 0] - reference_2[0]) * (height - before)))
