"""Who is on the front, who is validated, who is picked: pure functions of what is believed.

Everything here reads a `belief.Belief` of the search items; validation and test scores choose
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mergefront.config import RunConfig
from mergefront.errors import RunError, UserError
from mergefront.records import Estimate, Evaluation
from mergefront.runs.belief import Belief, believe
from mergefront.runs.history import reference_point, with_tokens
from mergefront.stats import pareto

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mergefront.runs.front import Front, Member

GUARDED: Final = "guarded"
WEIGHTED: Final = "weighted:"

SURE: Final = 0.8416
"""Standard deviations by which a guard must be kept: four chances in five that it is."""


def believed(
    found: Sequence[Evaluation], config: RunConfig, receiver: Mapping[str, Estimate]
) -> Belief:
    """What a run's finished candidates say together; `receiver` is its search estimates."""
    reference = reference_point(config, receiver)
    return believe(found, list(config.objectives), reference, config.costs)


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
    candidates: Sequence[Evaluation], belief: Belief, config: RunConfig
) -> list[FrontRow]:
    """The front that is believed, best first objective first."""
    origins = {e.number: e.origin for e in candidates}
    return [
        FrontRow(number, origins[number], with_tokens(belief.of(number), config.costs))
        for number in belief.front
    ]


def choose_finalists(
    finished: Sequence[Evaluation], config: RunConfig, belief: Belief
) -> list[int]:
    """Numbers of the members to validate, by what is believed: whole fronts, peeled in turn.

    The non-dominated candidates come first; if they are fewer than `report.finalists`, the front
    of what remains follows, and so on, since noise hides good candidates just behind the front.
    Of a layer that does not fit whole, the best on each objective stay, and then those that cover
    most hypervolume.
    """
    distinct = [e.number for e in _distinct(finished)]
    left = [number for number in distinct if number not in belief.barred] or distinct
    mean = {number: belief.mean_NM[i] for i, number in enumerate(belief.numbers)}
    chosen: list[int] = []
    while left and len(chosen) < config.report.finalists:
        points = np.array([mean[number] for number in left])
        layer = [left[i] for i in pareto.non_dominated(points)]
        chosen += _thinned(layer, mean, config.report.finalists - len(chosen))
        left = [number for number in left if number not in set(layer)]
    return sorted(chosen)


def _thinned(layer: Sequence[int], mean: Mapping[int, NDArray[np.float64]], room: int) -> list[int]:
    """At most `room` of a layer: the best on each objective, and then what covers most."""
    if len(layer) <= room:
        return list(layer)
    points = np.array([mean[number] for number in layer])
    best = list(dict.fromkeys(points.argmax(axis=0).tolist()))
    corner = points.min(axis=0) - 0.1 * np.ptp(points, axis=0) - 1e-9
    return [layer[i] for i in pareto.covering(points, corner, room, kept=best)]


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


def non_dominated(members: Sequence[int], belief: Belief) -> list[int]:
    """Those of some candidates that no other of them dominates, by what is believed."""
    points = belief.means(members)
    return [members[i] for i in pareto.non_dominated(points)]


def picks(
    members: Sequence[int], config: RunConfig, receiver: Mapping[str, Estimate], belief: Belief
) -> dict[str, int]:
    """Pick name -> number, decided by what is believed of the non-dominated members.

    `guarded` is the best on the first objective of those that keep all others within their
    guards below the receiver, and every objective within the run's constraints, with four chances
    in five; there is none if no member does.
    """
    names = list(config.objectives)
    front = non_dominated(members, belief)
    points = belief.means(front)
    chosen = {"knee": front[pareto.knee(points)]}
    for column, name in enumerate(names):
        chosen[f"best:{name}"] = front[int(np.argmax(points[:, column]))]
    kept = [n for n in front if keeps(n, belief, config, receiver)]
    if kept:
        chosen[GUARDED] = max(kept, key=lambda n: belief.of(n)[names[0]].mean)
    return chosen


def keeps(number: int, belief: Belief, config: RunConfig, receiver: Mapping[str, Estimate]) -> bool:
    """Whether a candidate likely loses no more than the guards allow, and meets the constraints.

    Guards are of a comparison on the same items, so that the luck that all have in common is left
    out; constraints are of the candidate itself, so that it counts.
    """
    gain, itself = belief.gain(number, receiver), belief.of(number)
    kept = all(
        gain[name].mean - SURE * gain[name].se >= -guard for name, guard in config.guards.items()
    )
    return kept and all(
        itself[name].mean - SURE * itself[name].se >= floor
        for name, floor in config.least_scores.items()
    )


def weights_of(pick: str, objectives: Sequence[str]) -> dict[str, float]:
    """The weights of a pick like weighted:reasoning=2,perception=1; those not named weigh 0.

    Raises:
        UserError: it names another objective, or a weight is no number above 0.
    """
    weights: dict[str, float] = {}
    for entry in pick.removeprefix(WEIGHTED).split(","):
        name, _, number = entry.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = 0.0
        if name not in objectives or not 0.0 < weights[name] < float("inf"):
            raise UserError(
                f"{pick!r}: {entry!r} is no weight of an objective",
                hint=f"write for example {WEIGHTED}{objectives[0]}=2,{objectives[-1]}=1",
            )
    return weights


def resolve_pick(front: Front, pick: str, where: Path) -> int:
    """Return the number of the candidate that a pick names.

    A pick is knee, guarded, best:OBJECTIVE, weighted:OBJECTIVE=WEIGHT,..., or a number. Weights
    are of what the search believes of the members.

    Raises:
        RunError: there is no such pick.
        UserError: weights that are none.
    """
    if pick.startswith(WEIGHTED):
        weights = weights_of(pick, front.objectives)

        def worth(member: Member) -> float:
            return sum(weight * member.believed[name].mean for name, weight in weights.items())

        return max(front.members, key=worth).number
    for member in front.members:
        if pick in member.picks:
            return member.number
    if pick.isdigit() and int(pick) < front.candidates:
        return int(pick)
    legal = ["knee", GUARDED, *(f"best:{name}" for name in front.objectives)]
    legal.append(WEIGHTED + ",".join(f"{name}=1" for name in front.objectives))
    raise RunError(
        f"{where}: there is no pick {pick!r}",
        hint=f"use {', '.join(legal)} or a candidate's number below {front.candidates}",
    )
