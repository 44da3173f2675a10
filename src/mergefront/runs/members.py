"""Which candidates are on the front, validated and picked: functions of what is believed alone.

Everything here reads a `belief.Belief` of the search items; validation and test scores choose
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mergefront.config import RunConfig
from mergefront.records import Estimate, Evaluation
from mergefront.runs.belief import Belief, fit_belief
from mergefront.runs.history import reference_point, with_tokens
from mergefront.runs.reference import BEST, GUARDED, KNEE
from mergefront.sampling.problem import Array
from mergefront.stats import pareto

_FOUR_IN_FIVE: Final = 0.8416
"""A limit counts as kept if it holds with probability 0.8: by so many standard deviations."""


def run_belief(
    evaluations: Sequence[Evaluation], config: RunConfig, receiver: Mapping[str, Estimate]
) -> Belief:
    """Return what a run's candidates say together; `receiver` is its search estimates."""
    reference = reference_point(config, receiver)
    return fit_belief(evaluations, list(config.objectives), reference, config.costs)


@dataclass(frozen=True)
class FrontRow:
    """A candidate on the front while the search runs, with what is believed of it."""

    number: int
    origin: str
    believed: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        believed = {name: estimate.to_dict() for name, estimate in self.believed.items()}
        return {"number": self.number, "origin": self.origin, **believed}


def current_front(
    evaluations: Sequence[Evaluation], belief: Belief, config: RunConfig
) -> list[FrontRow]:
    """Return the believed front, sorted by the first objective, best first."""
    origins = {e.number: e.origin for e in evaluations}
    return [
        FrontRow(number, origins[number], with_tokens(belief.estimates(number), config.costs))
        for number in belief.front
    ]


def choose_members(
    evaluations: Sequence[Evaluation], config: RunConfig, belief: Belief
) -> list[int]:
    """Return the numbers of the candidates to validate: whole fronts as believed, in turn.

    The non-dominated candidates come first. If they are fewer than `report.finalists`, the front
    of the remaining candidates follows, and so on, since noise hides good candidates just behind
    the front. Of a front that does not fit whole, the best on each objective stay, and then those
    that cover most hypervolume.
    """
    first: dict[tuple[float, ...], int] = {}  # the first with each point; not the receiver
    for evaluation in evaluations:
        if evaluation.origin != "receiver":
            first.setdefault(evaluation.point, evaluation.number)
    # The receiver is a member only if there is no other candidate.
    distinct = list(first.values()) or [evaluation.number for evaluation in evaluations]
    remaining = [number for number in distinct if number not in belief.ineligible] or distinct
    mean = {number: belief.mean_NM[i] for i, number in enumerate(belief.numbers)}
    members: list[int] = []
    while remaining and len(members) < config.report.finalists:
        points = np.array([mean[number] for number in remaining])
        front = [remaining[i] for i in pareto.non_dominated(points)]
        members += _thinned(front, mean, config.report.finalists - len(members))
        remaining = [number for number in remaining if number not in set(front)]
    return sorted(members)


def _thinned(front: Sequence[int], mean: Mapping[int, Array], room: int) -> list[int]:
    """At most `room` of a front: the best on each objective, and then what covers most."""
    if len(front) <= room:
        return list(front)
    points = np.array([mean[number] for number in front])
    best = list(dict.fromkeys(points.argmax(axis=0).tolist()))
    corner = points.min(axis=0) - 0.1 * np.ptp(points, axis=0) - 1e-9
    return [front[i] for i in pareto.covering(points, corner, room, fixed=best)]


def search_scores(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Array:
    """Return search estimates as an N x M array, objectives in the order of `names`."""
    return np.array([[e.objectives[name].mean for name in names] for e in evaluations])


def non_dominated(members: Sequence[int], belief: Belief) -> list[int]:
    """Return the members that no other member dominates, by what is believed."""
    points = belief.means(members)
    return [members[i] for i in pareto.non_dominated(points)]


def choose_picks(
    members: Sequence[int], config: RunConfig, receiver: Mapping[str, Estimate], belief: Belief
) -> dict[str, int]:
    """Return pick -> number, by what is believed of the non-dominated members.

    `guarded` is the best on the first objective of those that lose no more on the others than
    their guards allow, and meet the run's constraints, with four chances in five; there is none if
    no member does.
    """
    names = list(config.objectives)
    front = non_dominated(members, belief)
    points = belief.means(front)
    picks = {KNEE: front[pareto.knee(points)]}
    for column, name in enumerate(names):
        picks[BEST + name] = front[int(np.argmax(points[:, column]))]
    safe = [number for number in front if keeps_limits(number, belief, config, receiver)]
    if safe:
        picks[GUARDED] = max(safe, key=lambda number: belief.estimates(number)[names[0]].mean)
    return picks


def keeps_limits(
    number: int, belief: Belief, config: RunConfig, receiver: Mapping[str, Estimate]
) -> bool:
    """Whether a candidate likely loses no more than the guards allow, and meets the constraints.

    A guard limits a comparison on the same items, so that the luck which all candidates share is
    left out; a constraint limits the candidate itself, so that it counts.
    """
    gains, estimates = belief.gains(number, receiver), belief.estimates(number)
    limits = [(gains[name], -guard) for name, guard in config.guards.items()]
    limits += [(estimates[name], score) for name, score in config.least_scores.items()]
    return all(estimate.mean - _FOUR_IN_FIVE * estimate.se >= limit for estimate, limit in limits)
