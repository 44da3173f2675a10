"""A small search over merges of the zoo, to show that searching pays there at all.

Not the product's search: a uniform grid (one coefficient a donor) and an evolutionary walk
over depth profiles get the same number of evaluations on the same items; the fronts they
find are scored again on fresh items, where their hypervolumes are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tools.zoo.measure import Bench, Floats, Items, front, hypervolume, knots

HIGH: Final = 1.5
RESAMPLES: Final = 400
Evaluate = Callable[[Floats], Floats]


@dataclass(frozen=True)
class FrontScores:
    """A front: its tables of coefficients, and per-item scores on fresh items.

    `perception_FN` and `reasoning_FN` hold one row a member of the front.
    """

    tables: list[Floats]
    perception_FN: Floats
    reasoning_FN: Floats

    def points(self) -> Floats:
        """Mean (reasoning, perception) of each member."""
        return np.stack([self.reasoning_FN.mean(1), self.perception_FN.mean(1)], axis=1)


def uniform_grid(side: int) -> list[tuple[float, float]]:
    """All pairs of coefficients on an even grid from 0 to the highest."""
    axis = np.linspace(0, HIGH, side).tolist()
    return [(first, second) for first in axis for second in axis]


def walk(evaluate: Evaluate, starts: list[Floats], budget: int, seed: int) -> list[Floats]:
    """Improve a front by mutating and crossing its members; returns the front's points."""
    rng = np.random.default_rng(seed)
    points, scores = list(starts), [evaluate(start) for start in starts]
    while len(points) < budget:
        best = front(np.array(scores))
        child = points[rng.choice(best)].copy()
        if rng.random() < 0.4:
            partner = points[rng.choice(best)]
            child = np.where(rng.random(len(child)) < 0.5, child, partner)
        moved = rng.random(len(child)) < rng.choice([0.15, 0.35, 0.7])
        moved[rng.integers(len(child))] = True
        step = rng.normal(0, rng.choice([0.1, 0.3, 0.6]), len(child))
        points.append(np.clip(child + moved * step, 0, HIGH))
        scores.append(evaluate(points[-1]))
    return [points[i] for i in front(np.array(scores))]


def search_profiles(
    bench: Bench, perception: Items, reasoning: Items, budget: int, seed: int
) -> list[Floats]:
    """Search knots over depth by part; returns the front's tables."""
    size = 7 * len(bench.deltas)

    def evaluate(point: Floats) -> Floats:
        bench.load(knots(bench, point))
        return np.array([reasoning.score(bench).mean(), perception.score(bench).mean()])

    starts = [np.full(size, c) for c in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return [knots(bench, point) for point in walk(evaluate, starts, budget, seed)]


def search_uniform(bench: Bench, perception: Items, reasoning: Items, side: int) -> list[Floats]:
    """Score the grid of uniform coefficients; returns the front's tables."""
    tables = [bench.uniform(*pair) for pair in uniform_grid(side)]
    scores = []
    for table in tables:
        bench.load(table)
        scores.append([reasoning.score(bench).mean(), perception.score(bench).mean()])
    return [tables[i] for i in front(np.array(scores))]


def rescore(bench: Bench, tables: list[Floats], perception: Items, reasoning: Items) -> FrontScores:
    """Score recipes on fresh items."""
    perception_scores, reasoning_scores = [], []
    for table in tables:
        bench.load(table)
        perception_scores.append(perception.score(bench))
        reasoning_scores.append(reasoning.score(bench))
    return FrontScores(tables, np.array(perception_scores), np.array(reasoning_scores))


def compare_volumes(
    first: FrontScores, second: FrontScores, perception: Items, reasoning: Items, reference: Floats
) -> tuple[float, float, float]:
    """Hypervolumes of two fronts, and the standard error of their difference.

    The error comes from resampling clusters, the same for both fronts.
    """
    rng = np.random.default_rng(0)
    names = np.union1d(perception.clusters, reasoning.clusters)
    sums = [_sums(front_scores, perception, reasoning, names) for front_scores in (first, second)]
    counts = [
        np.array([np.sum(items.clusters == c) for c in names]) for items in (reasoning, perception)
    ]
    differences = []
    for _ in range(RESAMPLES):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        volumes = [
            hypervolume(
                np.stack([s[k] @ weight / (counts[k] @ weight) for k in (0, 1)], axis=1), reference
            )
            for s in sums
        ]
        differences.append(volumes[0] - volumes[1])
    volumes = [hypervolume(front_scores.points(), reference) for front_scores in (first, second)]
    return volumes[0], volumes[1], float(np.std(differences))


def _sums(
    front_scores: FrontScores, perception: Items, reasoning: Items, names: NDArray[np.str_]
) -> tuple[Floats, Floats]:
    """Right answers by member and cluster: reasoning, perception."""
    member = [
        np.stack([scores[:, items.clusters == c].sum(1) for c in names], axis=1)
        for items, scores in (
            (reasoning, front_scores.reasoning_FN),
            (perception, front_scores.perception_FN),
        )
    ]
    return member[0], member[1]
