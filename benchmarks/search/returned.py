"""What an arm returns at its end: at most five points, with the values that it claims for them.

Peers know no noise: they return the candidates that no other beats by search score. To be kind,
those are taken only among candidates better than the reference point (by the receiver's search
scores), where there are any; and of more than five those that together cover most hypervolume
(greedily). `uniform` and `random` do the same, and so do our own arms with what they believe.
mergekit-evolve has one answer, its best weighted sum; its table row is the kinder set of five, and
a row of its own has the one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from mergefront.stats.pareto import covering, non_dominated

MOST = 5


class Point(TypedDict):
    """One returned point: the candidate's number, what is claimed of it, and how surely.

    `values` are (reasoning, perception), `errors` their standard errors as the arm knows them.
    """

    number: int
    values: list[float]
    errors: list[float]


def raw_front(candidates: Sequence[dict[str, Any]], reference: Sequence[float]) -> list[Point]:
    """The peers' rule: non-dominated by search score."""
    values_NM = np.array([one["mean"] for one in candidates], dtype=float)
    better = np.flatnonzero((values_NM > np.asarray(reference)).all(axis=1))
    pool = better if len(better) else np.arange(len(values_NM))
    front = pool[non_dominated(values_NM[pool])]
    _, first = np.unique(values_NM[front], axis=0, return_index=True)
    front = front[np.sort(first)]  # of equals the first
    chosen = covering(values_NM[front], reference, MOST) or [0]
    return [_point(candidates[front[i]]) for i in chosen]


def best_sum(candidates: Sequence[dict[str, Any]]) -> list[Point]:
    """mergekit-evolve's own rule: the best weighted sum, one point."""
    return [_point(max(candidates, key=lambda one: sum(one["mean"])))]


def _point(candidate: dict[str, Any]) -> Point:
    return Point(
        number=candidate["number"], values=list(candidate["mean"]), errors=list(candidate["se"])
    )
