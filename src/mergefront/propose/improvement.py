"""What a point is worth to a front: the hypervolume that it adds, or how far it is from adding any.

All objectives are maximised, one to four of them; exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def improvements(values_PM: Array, front_KM: Array, reference_M: Array) -> Array:
    """Return what each of P points is worth to K others, to be maximised: (P,).

    The hypervolume that it adds to them, where it adds any; else minus the least that all its
    values would have to rise by for it to add. Members that do not exceed the reference count for
    nothing. With one objective: the rise over the best other.
    """
    above_PKM = values_PM[:, None, :] - front_KM[None, :, :]
    over_front_P = above_PKM.max(axis=2).min(axis=1)
    worth_P: Array = np.minimum(over_front_P, (values_PM - reference_M).min(axis=1))
    adding = worth_P > 0
    if adding.any():
        worth_P[adding] = _added(values_PM[adding], front_KM, reference_M)
    return worth_P


def _added(values_PM: Array, front_KM: Array, reference_M: Array) -> Array:
    """Sum over boxes what of each lies below the point."""
    standing_KM = front_KM[(front_KM > reference_M).all(axis=1)]
    lower_BM, upper_BM = boxes(standing_KM, reference_M)
    volume_PB = np.ones((len(values_PM), len(lower_BM)))
    for value_P, lower_B, upper_B in zip(values_PM.T, lower_BM.T, upper_BM.T, strict=True):
        volume_PB *= np.clip(np.minimum(value_P[:, None], upper_B) - lower_B, 0.0, None)
    added_P: Array = volume_PB.sum(axis=1)
    return added_P


def boxes(front_KM: Array, reference_M: Array) -> tuple[Array, Array]:
    """Cut what lies above the reference and below no member into B boxes: corners (B, M) twice.

    Slices between members, along one objective after the other; in a slice, only the members above
    it bar anything. Members exceed the reference; dominated ones among them are fine.
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


def _slice(barring: Array, reference_M: Array, bottom: float, top: float) -> tuple[Array, Array]:
    """Return the boxes of one slice: those in one objective less, from `bottom` to `top`."""
    lower, upper = boxes(barring, reference_M[:-1])
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
    left, right = np.append(reference_2[0], first_K), np.append(first_K, np.inf)
    height = np.append(second_K, reference_2[1])
    return np.column_stack([left, height]), np.column_stack([right, np.full(len(right), np.inf)])
