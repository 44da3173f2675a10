"""A noise-aware Gaussian process sampler: Thompson draws, chosen by hypervolume improvement.

Each objective gets a `surrogate` that knows every candidate's standard error. To propose, one
surface per objective is drawn from what the scores allow, jointly over a pool of new points and
the best evaluated ones; the point whose drawn values add the most hypervolume to the drawn front
of the evaluated ones is next. So luck in a candidate's score does not make it a peak to climb, as
it does for methods that rank raw scores.

Collapsed candidates (less than half the reference) do not enter the surfaces; a surface of their
own, 1 where a candidate collapsed and 0 elsewhere, lowers what a point near them is worth, to
nothing where collapse is as likely as not.

A draw belongs to one trial's number. Trials in flight are therefore explored by different draws
and need not be known, which is what law 6 asks: a proposal may depend only on what was told.

References: Thompson draws for several workers: Kandasamy et al., AISTATS 2018, arXiv:1705.09236.
Thompson draws with hypervolume: Bradford, Schweidtmann and Lapkin, Journal of Global Optimization
71 (2018). The equations are in docs/search.md.

Reading order: `NoisyGpProposer.propose`, `pool`, `improvements`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mergefront import surrogate
from mergefront.pareto import non_dominated
from mergefront.propose.replay import Proposer, Tell, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Features = Callable[["Array"], "Array"]
"""Points (N, D) in the unit box -> feature vectors (N, F) on which the kernel measures distance."""

MOST_DESIGN = 32
"""Trials before the model, at most; 2 D + 5 if that is fewer. Warm starts count among them."""

_FEWEST = 4  # candidates that stand; with fewer there is no model
_DOUBT = 0.1  # standard error of the labels 0 and 1 of candidates that stand and that collapsed
_FRONT = 40  # evaluated points that a draw includes: the best by posterior mean
_SPREAD, _NEAR, _CROSSED = 128, 192, 64  # of the pool: anywhere, near the front, between members
_STEPS = (0.02, 0.05, 0.1, 0.2, 0.4)  # standard deviations of steps away from the front
_SAME = 1e-3  # Euclidean distance below which two points are one
_EXACT = {3: 32, 4: 8}  # objectives: pool points whose improvement is computed; 4 take 20 ms each

_DESIGN, _DRAW = 30, 31  # purposes of derived seeds


@dataclass(frozen=True)
class _Model:
    """What is fitted to N evaluated candidates: K of them are best, the first of these the front.

    No surfaces if too few candidates have not collapsed.
    """

    points_ND: Array
    reference_M: Array
    surfaces: Sequence[surrogate.GaussianProcess] = ()
    best_KD: Array = field(default_factory=lambda: np.empty((0, 0)))
    n_front: int = 0
    collapse: surrogate.GaussianProcess | None = None


class NoisyGpProposer(Proposer):
    """The sampler `noisy-gp`; caches the surfaces fitted to the tells it saw last.

    `features` maps points to what the kernel sees; by default the points themselves, which lie in
    [0, 1]^D. `reference` is the hypervolume's; without one, just below the worst values told.
    """

    def __init__(
        self,
        *,
        dimension: int,
        seed: int,
        n_objectives: int,
        reference: Sequence[float] | None,
        features: Features | None = None,
    ) -> None:
        self._dimension = dimension
        self._seed = seed
        self._n_objectives = n_objectives
        self._reference = None if reference is None else np.asarray(reference, dtype=np.float64)
        self._features = features or (lambda points_ND: points_ND)
        self._seen: list[Tell] = []
        self._model: _Model | None = None

    def propose(self, tells: Sequence[Tell], number: int) -> Array:
        """Return the point of trial `number`, given `tells` in finishing order."""
        evaluated = [tell for tell in tells if tell.values is not None]
        if number < min(2 * self._dimension + 5, MOST_DESIGN):
            return self._design(number)
        if evaluated != self._seen or self._model is None:
            self._model = self._fitted(evaluated)
            self._seen = evaluated
        model = self._model
        if len(model.points_ND) < _FEWEST:
            return self._design(number)
        random = generator(self._seed, _DRAW, number)
        pool_PD = pool(model.best_KD[: model.n_front], random)
        pool_PD = pool_PD[_new(pool_PD, np.array([tell.point for tell in tells]))]
        both_F = self._features(np.vstack([model.best_KD, pool_PD]))
        drawn = np.column_stack([surface.draw(both_F, random) for surface in model.surfaces])
        front_KM, drawn_PM = np.split(drawn, [len(model.best_KD)])
        worth_P = improvements(drawn_PM, front_KM, model.reference_M)
        if model.collapse is not None:
            chance_P = np.clip(model.collapse.mean(self._features(pool_PD)), 0.0, 0.5)
            worth_P = np.where(worth_P > 0, worth_P * (1.0 - 2.0 * chance_P), worth_P - chance_P)
        point_D: Array = pool_PD[int(np.argmax(worth_P))]
        return point_D

    def _design(self, number: int) -> Array:
        """Return point `number` of the run's scrambled Sobol sequence."""
        from scipy.stats.qmc import Sobol

        seed = generator(self._seed, _DESIGN)
        sequence = Sobol(self._dimension, scramble=True, seed=seed)
        if number:  # scipy 1.17 cannot skip none
            sequence.fast_forward(number)
        return np.asarray(sequence.random(1)[0], dtype=np.float64)

    def _fitted(self, evaluated: list[Tell]) -> _Model:
        unknown = (surrogate.DEFAULT_ERROR,) * self._n_objectives
        points_ND = np.array([tell.point for tell in evaluated]).reshape(-1, self._dimension)
        values_NM = np.array([tell.values for tell in evaluated]).reshape(-1, self._n_objectives)
        errors_NM = np.array([tell.errors or unknown for tell in evaluated])
        reference_M = self._reference_point(values_NM)
        fallen_N = surrogate.collapsed(values_NM, reference_M)
        kept = np.flatnonzero(~fallen_N)
        if len(kept) < _FEWEST:
            return _Model(points_ND[kept], reference_M)
        collapse = None
        if fallen_N.any():
            doubt_N = np.full(len(fallen_N), _DOUBT)
            collapse = surrogate.fit(self._features(points_ND), fallen_N, doubt_N)
        points_ND, values_NM, errors_NM = points_ND[kept], values_NM[kept], errors_NM[kept]
        features_NF = self._features(points_ND)
        surfaces = [
            surrogate.fit(features_NF, values_NM[:, m], errors_NM[:, m])
            for m in range(self._n_objectives)
        ]
        mean_NM = np.column_stack([surface.mean(features_NF) for surface in surfaces])
        best = _best_first(mean_NM)[:_FRONT]
        n_front = len(non_dominated(mean_NM[best]))
        return _Model(points_ND, reference_M, surfaces, points_ND[best], n_front, collapse)

    def _reference_point(self, values_NM: Array) -> Array:
        if self._reference is not None:
            return self._reference
        if not len(values_NM):
            return np.zeros(self._n_objectives)
        low_M, high_M = values_NM.min(axis=0), values_NM.max(axis=0)
        reference_M: Array = low_M - 0.1 * (high_M - low_M) - 1e-6
        return reference_M


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
    pool_PD: Array = np.clip(np.vstack([anywhere_PD, near_PD, crossed_PD]), 0.0, 1.0)
    return pool_PD


def improvements(values_PM: Array, front_KM: Array, reference_M: Array) -> Array:
    """Return what each of P points is worth to K others, to be maximised: (P,).

    The hypervolume that it adds to them, where it adds any; else minus how far it is from adding,
    the least that all its values would have to rise by. All objectives are maximised. With three
    objectives the volume is computed for the 32 points farthest above the others, with four for 8;
    the rest count as adding nothing.
    """
    above_PKM = values_PM[:, None, :] - front_KM[None, :, :]
    over_front_P = above_PKM.max(axis=2).min(axis=1)
    clear_P: Array = np.minimum(over_front_P, (values_PM - reference_M).min(axis=1))
    if len(reference_M) == 1:
        return clear_P
    worth_P: Array = np.minimum(clear_P, 0.0)
    adding = np.flatnonzero(clear_P > 0)
    if len(reference_M) == 2:
        worth_P[adding] = _added_area(values_PM[adding], front_KM, reference_M)
        return worth_P
    adding = adding[np.argsort(-clear_P[adding], kind="stable")[: _EXACT[len(reference_M)]]]
    return _added_volume(worth_P, adding, values_PM, front_KM, reference_M)


def _added_area(values_P2: Array, front_K2: Array, reference_2: Array) -> Array:
    """Sum over strips of the first objective, between members, what rises above the front."""
    members = np.maximum(front_K2[non_dominated(front_K2)], reference_2)
    members = members[np.argsort(members[:, 0], kind="stable")]
    left = np.concatenate([reference_2[:1], members[:, 0]])  # borders of the strips
    right = np.concatenate([members[:, 0], [np.inf]])
    height = np.concatenate([members[:, 1], reference_2[1:]])  # the front's, falling to the right
    wide = np.clip(np.minimum(values_P2[:, :1], right) - left, 0.0, None)
    high = np.clip(values_P2[:, 1:] - height, 0.0, None)
    area_P: Array = (wide * high).sum(axis=1)
    return area_P


def _added_volume(
    worth_P: Array, adding: NDArray[np.intp], values_PM: Array, front_KM: Array, reference_M: Array
) -> Array:
    from moarchiving import get_mo_archive

    archive = get_mo_archive(
        (-front_KM).tolist(), reference_point=(-reference_M).tolist(), n_obj=len(reference_M)
    )
    for index in adding:
        worth_P[index] = archive.hypervolume_improvement((-values_PM[index]).tolist())
    return worth_P


def _best_first(mean_NM: Array) -> NDArray[np.intp]:
    """Order points by how many others dominate their posterior means, then by index."""
    at_least = (mean_NM[None, :, :] >= mean_NM[:, None, :]).all(axis=2)
    above = (mean_NM[None, :, :] > mean_NM[:, None, :]).any(axis=2)
    return np.argsort((at_least & above).sum(axis=1), kind="stable")


def _new(pool_PD: Array, told_ND: Array) -> NDArray[np.intp]:
    """Return which points of the pool have not been told yet; all, if all have been."""
    squared_PN = pool_PD.shape[1] * surrogate.squared_distances(pool_PD, told_ND)
    kept = np.flatnonzero(squared_PN.min(axis=1) > _SAME**2)
    return kept if len(kept) else np.arange(len(pool_PD))
