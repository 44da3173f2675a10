"""Who is on the front, who is validated, who is picked: pure functions of search estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mergefront import pareto
from mergefront.config import RunConfig
from mergefront.records import Estimate, Evaluation

GUARDED = "guarded"


def current_front(found: Sequence[Evaluation], names: Sequence[str]) -> list[dict[str, Any]]:
    """Non-dominated candidates by search estimates as plain rows, best first objective first."""
    done = [e for e in found if not e.failure]
    if not done:
        return []
    members = [done[i] for i in pareto.non_dominated(points_of(done, names))]
    members.sort(key=lambda e: -e.objectives[names[0]].mean)
    return [
        {"number": e.number, "origin": e.origin, **{o: asdict(e.objectives[o]) for o in names}}
        for e in members
    ]


def choose_finalists(finished: Sequence[Evaluation], config: RunConfig) -> list[int]:
    """Numbers of the members to validate, by search estimates: whole fronts, peeled in turn.

    The non-dominated candidates come first; if they are fewer than `report.finalists`, the front
    of what remains follows, and so on, since noise hides good candidates just behind the front.
    The layer that does not fit whole is thinned evenly along its first objective, ends kept.
    """
    names = list(config.objectives)
    left = _distinct(finished)
    chosen: list[int] = []
    while left and len(chosen) < config.report.finalists:
        layer = [left[i] for i in pareto.non_dominated(points_of(left, names))]
        room = config.report.finalists - len(chosen)
        layer.sort(key=lambda e: (e.objectives[names[0]].mean, e.number))
        if len(layer) > room:
            keep = np.unique(np.linspace(0, len(layer) - 1, room).round().astype(int))
            layer = [layer[i] for i in keep]
        chosen += [e.number for e in layer]
        gone = {e.number for e in layer}
        left = [e for e in left if e.number not in gone]
    return sorted(chosen)


def _distinct(finished: Sequence[Evaluation]) -> list[Evaluation]:
    """The first of several candidates with the same point; not the receiver itself."""
    first: dict[tuple[float, ...], Evaluation] = {}
    for evaluation in finished:
        if evaluation.origin != "receiver":
            first.setdefault(evaluation.point, evaluation)
    return list(first.values()) or list(finished)


def points_of(found: Sequence[Evaluation], names: Sequence[str]) -> np.ndarray:
    """Search estimates as an N x M array, objectives in the order of `names`."""
    return np.array([[e.objectives[name].mean for name in names] for e in found])


def picks(
    members: Sequence[Evaluation], config: RunConfig, receiver: Mapping[str, Estimate]
) -> dict[str, int]:
    """Pick name -> number, decided on search estimates of the non-dominated members.

    `guarded` is the best on the first objective of those that keep all others within their
    guards below the receiver; there is none if no member does.
    """
    names = list(config.objectives)
    front = [members[i] for i in pareto.non_dominated(points_of(members, names))]
    points = points_of(front, names)
    chosen = {"knee": front[pareto.knee(points)].number}
    for column, name in enumerate(names):
        chosen[f"best:{name}"] = front[int(np.argmax(points[:, column]))].number
    kept = [e for e in front if keeps(e, config, receiver)]
    if kept:
        chosen[GUARDED] = max(kept, key=lambda e: e.objectives[names[0]].mean).number
    return chosen


def keeps(found: Evaluation, config: RunConfig, receiver: Mapping[str, Estimate]) -> bool:
    """Whether a candidate loses no more than the guards on all objectives but the first."""
    return all(
        found.objectives[name].mean >= receiver[name].mean - config.guard_of(name)
        for name in list(config.objectives)[1:]
    )
