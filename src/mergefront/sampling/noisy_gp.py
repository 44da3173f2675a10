"""A noise-aware Gaussian process sampler: Thompson draws, chosen by hypervolume improvement.

Each objective gets a Gaussian process that knows every candidate's standard error. To propose, one
surface per objective is drawn from the posterior, jointly over a pool of new points and the best
evaluated ones. The new point whose drawn values add the most hypervolume to the drawn front of the
evaluated ones is next. So luck in a candidate's score does not make it a peak to climb, as it does
for methods that rank raw scores.

Collapsed candidates (less than half the reference) do not enter the surfaces; a surface of their
own, 1 where a candidate collapsed and 0 elsewhere, lowers what a point near them is worth, to
nothing where collapse is as likely as not.

A draw belongs to one trial's number. Trials in flight therefore explore by different draws and need
not know each other: a proposal may depend only on what was told (`replay`).

A constraint, the least value of an objective, raises the corner from which hypervolume counts:
what a draw puts below that corner is worth minus its shortfall. As long as no candidate is
feasible, steps start from the candidates that fall short by least, and the point with the smallest
drawn shortfall is proposed.

References: Thompson draws for several workers: Kandasamy et al., AISTATS 2018, arXiv:1705.09236.
Thompson draws with hypervolume: Bradford, Schweidtmann and Lapkin, Journal of Global Optimization
71 (2018). The equations are in docs/search.md.

Reading order: `NoisyGpProposer.propose`, `pool`; `stats.pareto.improvements`. Shapes: N candidates,
D knobs, M objectives, K best evaluated points, P new points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mergefront.sampling.gp.kernel import DEFAULT_ERROR, squared_distances
from mergefront.sampling.gp.posterior import Posterior, fit
from mergefront.sampling.problem import Array, Problem
from mergefront.sampling.quasirandom import QmcProposer
from mergefront.sampling.replay import Proposer, Tell
from mergefront.seeds import Purpose, generator
from mergefront.stats.pareto import improvements, non_dominated

MOST_DESIGN = 16
"""Trials before the model, at most; D + 5 if that is fewer. Warm starts count among them."""

_FRONT = 40  # evaluated points that a draw includes: the best by posterior mean
_NEAREST = 5  # of them, those around which to look while none meets the constraints
_SPREAD, _NEAR, _CROSSED = 128, 192, 64  # of the pool: anywhere, near the front, between members
_STEPS = (0.02, 0.05, 0.1, 0.2, 0.4)  # standard deviations of steps away from the front
_SAME = 1e-3  # Euclidean distance below which two points are one


@dataclass(frozen=True)
class _Model:
    """The surfaces, and the K best evaluated points, of which the first are the front.

    No surfaces and no points if too few candidates have not collapsed.
    """

    reference_M: Array
    posterior: Posterior
    best_KD: Array = field(default_factory=lambda: np.empty((0, 0)))
    n_front: int = 0


class NoisyGpProposer(Proposer):
    """The sampler `noisy-gp`; caches the surfaces fitted to the tells it saw last."""

    beside = True

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._design = QmcProposer(problem)
        self._design_trials = design_trials(problem.dimension)
        self._told_before: list[Tell] = []
        self._model: _Model | None = None

    def propose(self, tells: Sequence[Tell], number: int) -> Array:
        evaluated = [tell for tell in tells if tell.values is not None]
        if number < self._design_trials or not evaluated:
            return self._design.propose(tells, number)
        if evaluated != self._told_before or self._model is None:
            self._model, self._told_before = self._fitted(evaluated), evaluated
        if not self._model.posterior.surfaces:
            return self._design.propose(tells, number)
        random = generator(self._problem.seed, Purpose.SURFACE_DRAW, number)
        pool_PD = pool(self._model.best_KD[: self._model.n_front], random)
        told_ND = np.array([tell.point for tell in tells])
        squared_PN = pool_PD.shape[1] * squared_distances(pool_PD, told_ND)
        new = np.flatnonzero(squared_PN.min(axis=1) > _SAME**2)
        pool_PD = pool_PD[new] if len(new) else pool_PD
        worth_P = self._worth(self._model, pool_PD, random)
        point_D: Array = pool_PD[int(np.argmax(worth_P))]
        return point_D

    def _worth(self, model: _Model, pool_PD: Array, random: np.random.Generator) -> Array:
        """Return what each new point is worth in one draw of the surfaces (P,)."""
        points_PD = np.vstack([model.best_KD, pool_PD])
        # Thompson sampling: one joint draw of each surface, at old and new points together.
        surfaces, collapse = model.posterior.surfaces, model.posterior.collapse
        drawn = np.column_stack([surface.draw(points_PD, random) for surface in surfaces])
        front_KM, drawn_PM = np.split(drawn, [len(model.best_KD)])
        corner_M = self._problem.raised(model.reference_M)
        worth_P = improvements(drawn_PM, front_KM, corner_M)
        if collapse is None:
            return worth_P
        # Where collapse is as likely as not, nothing is left of an improvement.
        chance_P = np.clip(collapse.mean(pool_PD), 0.0, 0.5)
        return np.where(worth_P > 0, worth_P * (1.0 - 2.0 * chance_P), worth_P - chance_P)

    def _fitted(self, evaluated: list[Tell]) -> _Model:
        n_objectives = self._problem.n_objectives
        unknown, zero = (DEFAULT_ERROR,) * n_objectives, (0.0,) * n_objectives
        points_ND = np.array([tell.point for tell in evaluated])
        values_NM = np.array([tell.values for tell in evaluated])
        errors_NM = np.array([tell.errors or unknown for tell in evaluated])
        partial_NM = np.array([tell.partial or zero for tell in evaluated])
        reference_M = self._problem.reference_point(values_NM)
        fitted = fit(points_ND, values_NM, errors_NM, partial_NM, reference_M)
        if not fitted.surfaces:
            return _Model(reference_M, fitted)
        standing_ND = points_ND[fitted.not_collapsed_N]
        mean_NM = np.column_stack([surface.own_mean for surface in fitted.surfaces])
        best, n_front = _best(mean_NM, self._problem.shortfalls(mean_NM))
        return _Model(reference_M, fitted, standing_ND[best], n_front)


def design_trials(dimension: int) -> int:
    """Return how many first trials, warm starts included, come of no model."""
    return min(dimension + 5, MOST_DESIGN)


def pool(front_KD: Array, random: np.random.Generator) -> Array:
    """Return new points to choose from, (P, D) in the unit box, P = 384.

    A third anywhere; half are members of the front moved by steps of five sizes, along all
    coordinates or a random share of them; the rest lie on or beside the line between two members
    or take each coordinate from either. Steps out of the box end at its border, where the best
    coefficient of a layer may well lie.
    """
    dimension = front_KD.shape[1]
    anywhere_PD = random.random((_SPREAD, dimension))
    near_PD = front_KD[random.integers(len(front_KD), size=_NEAR)]
    share_P1 = np.where(random.random(_NEAR) < 0.5, 1.0, random.random(_NEAR))[:, None]
    moved_PD = random.random((_NEAR, dimension)) < share_P1
    steps_P1 = random.choice(_STEPS, size=_NEAR)[:, None]
    near_PD = near_PD + moved_PD * steps_P1 * random.standard_normal((_NEAR, dimension))
    first_PD, second_PD = front_KD[random.integers(len(front_KD), size=(2, _CROSSED))]
    line_P1 = random.uniform(-0.25, 1.25, size=(_CROSSED, 1))
    either_PD = (random.random((_CROSSED, dimension)) < 0.5).astype(np.float64)
    lined_P1 = random.random((_CROSSED, 1)) < 0.5
    crossed_PD = first_PD + np.where(lined_P1, line_P1, either_PD) * (second_PD - first_PD)
    return np.clip(np.vstack([anywhere_PD, near_PD, crossed_PD]), 0.0, 1.0)


def _best(mean_NM: Array, short_N: Array) -> tuple[NDArray[np.intp], int]:
    """Return the best points to keep, and how many of them, the first, to look around.

    First those that meet the constraints, by how many others dominate them; then by shortfall.
    """
    beaten_NN = np.ones((len(mean_NM), len(mean_NM)), dtype=np.bool_)
    above_NN = np.zeros_like(beaten_NN)
    for mean_N in mean_NM.T:
        beaten_NN &= mean_N[None, :] >= mean_N[:, None]
        above_NN |= mean_N[None, :] > mean_N[:, None]
    best = np.lexsort(((beaten_NN & above_NN).sum(axis=1), short_N))[:_FRONT]
    n_feasible = int((short_N[best] == 0.0).sum())
    if not n_feasible:
        return best, min(_NEAREST, len(best))
    return best, len(non_dominated(mean_NM[best[:n_feasible]]))
