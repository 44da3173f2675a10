"""Pareto fronts: dominance, hypervolume, what a point adds to it, and which members to keep.

All objectives are maximised, one to four of them; hypervolumes are exact. This module knows points
and no candidates. An error bar of a hypervolume is in `volumes`.

Shapes: N points, K members of a front, P new points, B boxes, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def non_dominated(points_NM: ArrayLike) -> NDArray[np.intp]:
    """Return the indices (ascending) of the points that no other point dominates.

    A point dominates another if it is nowhere smaller and somewhere larger. Equal points do not
    dominate each other: of duplicates on the front, all are returned. A point with a NaN is never
    on the front and dominates nothing.
    """
    points = _matrix(points_NM)
    usable = ~np.isnan(points).any(axis=1)
    members = [i for i in np.flatnonzero(usable) if not _dominated(points[i], points[usable])]
    return np.array(members, dtype=np.intp)


def _dominated(point_M: Array, points_NM: Array) -> bool:
    at_least = (points_NM >= point_M).all(axis=1)
    return bool((at_least & (points_NM > point_M).any(axis=1)).any())


def _matrix(points_NM: ArrayLike) -> Array:
    points = np.asarray(points_NM, dtype=float)
    return points.reshape(0, 0) if points.size == 0 else np.atleast_2d(points)


def hypervolume(points_NM: ArrayLike, reference_M: ArrayLike) -> float:
    """Return the volume that the points dominate above the reference point, exactly.

    Points that do not exceed the reference in every objective add nothing. A sweep in two
    objectives; in more, slices along the last one (While et al., A Faster Algorithm for Calculating
    Hypervolume, IEEE Transactions on Evolutionary Computation 10 (2006)).

    Raises:
        ValueError: more than four objectives, or a reference of another length.
    """
    points = _matrix(points_NM)
    reference = np.asarray(reference_M, dtype=float)
    if len(points) and points.shape[1] != len(reference):
        raise ValueError(f"points of {points.shape[1]} objectives, reference of {len(reference)}")
    if not 1 <= len(reference) <= 4:
        raise ValueError(f"hypervolume of {len(reference)} objectives; 1 to 4 are supported")
    points = points[(points > reference).all(axis=1)] if len(points) else points
    return _volume(points, reference) if len(points) else 0.0


def _volume(points_NM: Array, reference_M: Array) -> float:
    """Return the volume of points that all exceed the reference."""
    if len(reference_M) == 1:
        return float(points_NM.max() - reference_M[0])
    if len(reference_M) == 2:
        return _area(points_NM, reference_M)
    # Rounding depends on where slices lie: without duplicates and dominated points, a point that
    # adds nothing changes no bit of the sum, on which `covering` relies.
    points_NM = np.unique(points_NM[non_dominated(points_NM)], axis=0)
    points_NM = points_NM[np.argsort(-points_NM[:, -1], kind="stable")]
    bottom_N = np.append(points_NM[1:, -1], reference_M[-1])
    return sum(
        float(top - bottom) * _volume(points_NM[: n + 1, :-1], reference_M[:-1])
        for n, (top, bottom) in enumerate(zip(points_NM[:, -1], bottom_N, strict=True))
        if top > bottom
    )


def _area(points_N2: Array, reference_2: Array) -> float:
    """Sweep from the largest first objective down, adding the strip each point rises above."""
    ordered = points_N2[np.lexsort((-points_N2[:, 1], -points_N2[:, 0]))]
    height = np.maximum.accumulate(ordered[:, 1])
    height_before = np.concatenate([[reference_2[1]], height[:-1]])
    return float(np.sum((ordered[:, 0] - reference_2[0]) * (height - height_before)))


def improvements(values_PM: Array, front_KM: Array, reference_M: Array) -> Array:
    """Return what each of P points is worth to a front of K members, to be maximised: (P,).

    The hypervolume that it adds to them, where it adds any; else minus the least that all its
    values would have to rise by for it to add. Members that do not exceed the reference count for
    nothing. With one objective: the rise over the best member.
    """
    above_PKM = values_PM[:, None, :] - front_KM[None, :, :]
    over_front_P = above_PKM.max(axis=2).min(axis=1, initial=np.inf)
    worth_P: Array = np.minimum(over_front_P, (values_PM - reference_M).min(axis=1))
    adding = worth_P > 0
    if adding.any():
        lower_BM, upper_BM = _boxes_beyond(front_KM, reference_M)
        worth_P[adding] = _volume_below(values_PM[adding], lower_BM, upper_BM)
    return worth_P


def uncrowded_improvement(value_M: Array, front_KM: Array, reference_M: Array) -> float:
    """Return the hypervolume that a point adds to a front, or minus its distance from adding any.

    The distance is Euclidean. Reference: Toure et al., arXiv:1904.08823, definition 2.
    """
    worth = float(improvements(value_M[None, :], front_KM, reference_M)[0])
    if worth > 0.0:
        return worth
    lower_BM, _ = _boxes_beyond(front_KM, reference_M)
    # What is not dominated is open upwards, so the way into a box is the way to its lower corner.
    return -float(np.linalg.norm(np.maximum(lower_BM - value_M, 0.0), axis=1).min())


def _boxes_beyond(front_KM: Array, reference_M: Array) -> tuple[Array, Array]:
    return undominated_boxes(front_KM[(front_KM > reference_M).all(axis=1)], reference_M)


def _volume_below(values_PM: Array, lower_BM: Array, upper_BM: Array) -> Array:
    """Sum over the boxes the part of each that lies below a point: (P,)."""
    volume_PB = np.ones((len(values_PM), len(lower_BM)))
    for value_P, lower_B, upper_B in zip(values_PM.T, lower_BM.T, upper_BM.T, strict=True):
        volume_PB *= np.clip(np.minimum(value_P[:, None], upper_B) - lower_B, 0.0, None)
    volume_P: Array = volume_PB.sum(axis=1)
    return volume_P


def undominated_boxes(front_KM: Array, reference_M: Array) -> tuple[Array, Array]:
    """Cut what lies above the reference and below no member into B boxes: corners (B, M) twice.

    Slices between members, along one objective after the other; in a slice, only the members above
    it bar anything. All members exceed the reference; some may be dominated.
    """
    if len(reference_M) == 1:
        top = np.concatenate([reference_M, front_KM[:, 0]]).max()
        return np.array([[top]]), np.array([[np.inf]])
    if len(reference_M) == 2:
        return _strips(front_KM, reference_M)
    slices: list[tuple[Array, Array]] = []
    barring_KM, top = front_KM[:0, :-1], np.inf
    for member_M in front_KM[np.argsort(-front_KM[:, -1], kind="stable")]:
        if (barring_KM >= member_M[:-1]).all(axis=1).any():
            continue  # barred already in this slice and all below
        if member_M[-1] < top:
            slices.append(_slice(barring_KM, reference_M, member_M[-1], top))
        beaten_K = (barring_KM <= member_M[:-1]).all(axis=1)
        barring_KM, top = np.vstack([barring_KM[~beaten_K], member_M[:-1]]), member_M[-1]
    slices.append(_slice(barring_KM, reference_M, reference_M[-1], top))
    lower, upper = zip(*slices, strict=True)
    return np.vstack(lower), np.vstack(upper)


def _slice(barring_KM: Array, reference_M: Array, bottom: float, top: float) -> tuple[Array, Array]:
    """Return the boxes of one slice: those in one objective less, from `bottom` to `top`."""
    lower, upper = undominated_boxes(barring_KM, reference_M[:-1])
    return (
        np.column_stack([lower, np.full(len(lower), bottom)]),
        np.column_stack([upper, np.full(len(upper), top)]),
    )


def _strips(front_K2: Array, reference_2: Array) -> tuple[Array, Array]:
    """Return a strip for each member and one beyond: the front's height falls to the right."""
    ordered_K2 = front_K2[np.lexsort((front_K2[:, 1], front_K2[:, 0]))]
    from_right_K = np.maximum.accumulate(ordered_K2[::-1, 1])[::-1]
    stands_K = np.append(ordered_K2[:-1, 1] > from_right_K[1:], True)[: len(ordered_K2)]
    first_K, second_K = ordered_K2[stands_K].T
    lower = np.append(reference_2[0], first_K), np.append(second_K, reference_2[1])
    upper = np.append(first_K, np.inf), np.full(len(first_K) + 1, np.inf)
    return np.column_stack(lower), np.column_stack(upper)


def covering(
    points_NM: ArrayLike, reference_M: ArrayLike, most: int, fixed: Sequence[int] = ()
) -> list[int]:
    """Return at most `most` indices, ascending, of points that together cover much hypervolume.

    Greedy: each next point adds most to those chosen before, the first of equals; at least 63 % of
    what the best subset of that size covers. When no point adds any more, fewer are returned. The
    points in `fixed` are chosen before all others.

    Reference: Guerreiro, Fonseca and Paquete, Greedy Hypervolume Subset Selection in Low
    Dimensions, Evolutionary Computation 24 (2016).
    """
    points = _matrix(points_NM)
    subset = list(fixed)[:most]
    covered = hypervolume(points[subset], reference_M)
    while len(subset) < min(most, len(points)):
        volumes = [hypervolume(points[[*subset, i]], reference_M) for i in range(len(points))]
        best = int(np.argmax(volumes))
        if volumes[best] <= covered:
            break
        subset.append(best)
        covered = volumes[best]
    return sorted(subset)


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
    points = _matrix(points_NM)
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


def collapsed(values_NM: ArrayLike, reference_M: ArrayLike) -> NDArray[np.bool_]:
    """Return which candidates score less than half the reference in some objective (N,).

    The reference is the receiver or somewhat below it: a model at half of that is broken, not bad.
    Of a reference below 0, the half lies as far beneath it.
    """
    values, reference_M = np.asarray(values_NM, dtype=np.float64), np.asarray(reference_M)
    half_M = reference_M - 0.5 * np.abs(reference_M)
    return np.asarray((values < half_M).any(axis=1), dtype=np.bool_)
