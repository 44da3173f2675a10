"""What an arm returns at its end: at most five points, with the values that it claims for them.

Peers know no noise: they return the candidates that no other beats by search score. To be kind,
those are taken only among candidates better than the reference point (by the receiver's search
scores), where there are any; and of more than five those nearest to five values that lie evenly
between the smallest and the largest first objective. `uniform` and `random` do the same.
mergekit-evolve has one answer, its best weighted sum; its table row is the kinder set of five, and
a row of its own has the one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mergefront.pareto import non_dominated

MOST = 5


class Point(TypedDict):
    """One returned point: the candidate's number, what is claimed of it, and how surely.

    `values` are (reasoning, perception), `errors` their standard errors as the arm knows them.
    """

    number: int
    values: list[float]
    errors: list[float]


def thin(values_NM: NDArray[np.float64], most: int = MOST) -> list[int]:
    """Indices of at most `most` points, spread along the first objective, ascending in it."""
    order: list[int] = np.argsort(values_NM[:, 0], kind="stable").tolist()
    if len(order) <= most:
        return order
    first_N = values_NM[:, 0]
    left, chosen = list(order), []
    for target in np.linspace(first_N.min(), first_N.max(), most):
        nearest = min(left, key=lambda i: abs(first_N[i] - target))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda i: float(first_N[i]))


def raw_front(candidates: Sequence[dict[str, Any]], reference: Sequence[float]) -> list[Point]:
    """The peers' rule: non-dominated by search score."""
    values_NM = np.array([one["mean"] for one in candidates], dtype=float)
    better = np.flatnonzero((values_NM > np.asarray(reference)).all(axis=1))
    pool = better if len(better) else np.arange(len(values_NM))
    front = pool[non_dominated(values_NM[pool])]
    _, first = np.unique(values_NM[front], axis=0, return_index=True)
    front = front[np.sort(first)]  # of equals the first
    return [_point(candidates[front[i]]) for i in thin(values_NM[front])]


def best_sum(candidates: Sequence[dict[str, Any]]) -> list[Point]:
    """mergekit-evolve's own rule: the best weighted sum, one point."""
    return [_point(max(candidates, key=lambda one: sum(one["mean"])))]


def _point(candidate: dict[str, Any]) -> Point:
    return Point(
        number=candidate["number"], values=list(candidate["mean"]), errors=list(candidate["se"])
    )
