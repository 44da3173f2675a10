"""Surfaces with a known front, and an examination that scores points on them with items' noise.

What `search_synthetic.py` searches. Layer coefficients x lie in [0, 1]^(L modules). Reasoning and
perception (and a third objective, if asked for) each have an ability, the best minus a convex
quadratic around a profile over depth; accuracy is the mean of a two-parameter item response model.
All numbers are made up; what they are made to resemble: a receiver at .48 reasoning, .40
perception left with the whole delta, and .62 and .64 at best.

- smooth: profiles rise or fall once over depth, neighbouring layers are coupled;
- mixed: with independent deviations of every layer and unequal curvature;
- rough: independent profiles, a randomly rotated ellipsoid of condition 100;
- cliffs: smooth, at half the coefficients, and everything collapses beyond a mean coefficient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, ndtr

from mergefront.stats.pareto import hypervolume

Array = NDArray[np.float64]

SURFACES = ("smooth", "mixed", "rough", "cliffs")
KNOTS, ITEMS = 4, 200
REFERENCE = (0.48, 0.40, 0.45)  # receiver's reasoning, perception and a third with the whole delta
BEST = (0.62, 0.64, 0.60)
HIGHEST = (1.0, 0.7, 0.5)  # coefficient at which an objective may be at its best
SHARED_LUCK = 0.7  # correlation of the luck of two candidates on one item


class Cell(NamedTuple):
    """One problem: a surface with layers in each of some modules, and a seed.

    `knots` for each module are what a sampler moves; as many as layers is every layer.
    """

    surface: str
    layers: int
    modules: int
    seed: int
    fresh: bool
    knots: int = KNOTS
    objectives: int = 2


class Population:
    """Two-parameter items, slope a and difficulty b: P(right) = logistic(a (ability - b))."""

    def __init__(self) -> None:
        self.slope_N, self.difficulty_N = self.draw(np.random.default_rng(0), 20_000)
        self._ability_K = np.linspace(-12.0, 8.0, 801)
        self._accuracy_K = np.array(
            [expit(self.slope_N * (t - self.difficulty_N)).mean() for t in self._ability_K]
        )

    @staticmethod
    def draw(random: np.random.Generator, n: int) -> tuple[Array, Array]:
        return random.lognormal(0.0, 0.3, n), random.standard_normal(n)

    def accuracy(self, ability: Any) -> Array:
        return np.asarray(np.interp(ability, self._ability_K, self._accuracy_K))

    def ability(self, accuracy: float) -> float:
        return float(np.interp(accuracy, self._accuracy_K, self._ability_K))


@dataclass
class Surface:
    """Abilities at layer coefficients: best - scale (x - profile)' H (x - profile) - collapse."""

    population: Population
    profiles_ML: Array
    curvatures_MLL: Array
    top: float  # the whole delta; beyond it and the cliff everything collapses
    cliff: float = np.inf

    def __post_init__(self) -> None:
        self.reference = REFERENCE[: len(self.profiles_ML)]
        self.best = [self.population.ability(best) for best in BEST]
        self.scale = []
        for m, reference in enumerate(self.reference):
            place_L = np.full_like(self.profiles_ML[m], self.top if m else 0.0)
            fall = self.best[m] - self.population.ability(reference)
            self.scale.append(fall / self.quadratic(m, place_L))

    def quadratic(self, m: int, x_L: Array) -> float:
        away_L = x_L - self.profiles_ML[m]
        return float(away_L @ self.curvatures_MLL[m] @ away_L)

    def abilities(self, x_L: Array) -> list[float]:
        collapse = 6.0 * float(expit((x_L.mean() - self.cliff) / 0.01))
        return [
            self.best[m] - scale * self.quadratic(m, x_L) - collapse
            for m, scale in enumerate(self.scale)
        ]

    def truth(self, x_L: Array) -> Array:
        return self.population.accuracy(self.abilities(x_L))

    def pareto_set(self, basis_LD: Array) -> list[Array]:
        """Layer vectors x = basis z, z in the unit box, with the best weighted sums of objectives.

        All of the front, since the quadratics are convex. With the identity: over all layers.
        """
        found, z_D = [], np.full(basis_LD.shape[1], 0.5)
        hessian_MLL = [s * h for s, h in zip(self.scale, self.curvatures_MLL, strict=True)]
        for weights in weightings(len(self.scale)):
            parts = zip(weights, hessian_MLL, self.profiles_ML, strict=True)
            h_DD, pull_D = np.zeros((len(z_D), len(z_D))), np.zeros(len(z_D))
            for weight, h_LL, profile_L in parts:
                h_DD += weight * basis_LD.T @ h_LL @ basis_LD
                pull_D += weight * basis_LD.T @ h_LL @ profile_L
            z_D = minimize(
                lambda z, h=h_DD, p=pull_D: (z @ h @ z - 2 * p @ z, 2 * (h @ z - p)),
                z_D, jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(z_D),
                options={"ftol": 1e-13, "gtol": 1e-9},
            ).x  # fmt: skip
            found.append(basis_LD @ z_D)
        return found

    def volume(self, basis_LD: Array) -> float:
        """Hypervolume of the true front within a basis."""
        return hypervolume([self.truth(x_L) for x_L in self.pareto_set(basis_LD)], self.reference)


def weightings(objectives: int) -> list[tuple[float, ...]]:
    """61 weightings of two objectives, 91 of three, in an order that changes little at a time."""
    if objectives == 2:
        return [(1.0 - share, share) for share in np.linspace(0.0, 1.0, 61)]
    return [((12 - i - j) / 12, i / 12, j / 12) for i in range(13) for j in range(13 - i)]


def make_surface(cell: Cell, population: Population) -> Surface:
    random = np.random.default_rng([cell.seed, cell.layers, cell.modules])
    size, depth_L = cell.layers * cell.modules, np.linspace(0.0, 1.0, cell.layers)
    profiles, curvatures = [], []
    for low, high in [(0.0, high) for high in HIGHEST[: cell.objectives]]:
        if cell.surface == "rough":
            profiles.append(random.uniform(low, high, size))
            axes_LL = np.linalg.qr(random.standard_normal((size, size)))[0]
            curvatures.append(axes_LL @ np.diag(np.logspace(0, -2, size)) @ axes_LL.T)
            continue
        # each module's profile rises or falls over depth by most of the range
        ends = [
            random.permutation([low + 0.15 * u, high - 0.15 * v])
            for u, v in random.random((cell.modules, 2))
        ]
        bends = [expit(12 * (depth_L - random.uniform(0.25, 0.75))) for _ in ends]
        profile_L = np.hstack([a + (b - a) * s for (a, b), s in zip(ends, bends, strict=True)])
        step_LL = np.diff(np.eye(cell.layers), axis=0)
        h_LL = np.kron(np.eye(cell.modules), np.eye(cell.layers) + 0.5 * step_LL.T @ step_LL)
        if cell.surface == "mixed":
            profile_L = np.clip(profile_L + random.normal(0, 0.14, size), 0.0, 1.0)
            root_L = random.lognormal(0.0, 0.4, size)
            h_LL = root_L[:, None] * h_LL * root_L
        profiles.append(profile_L)
        curvatures.append(h_LL)
    if cell.surface != "cliffs":
        return Surface(population, np.array(profiles), np.array(curvatures), top=1.0)
    surface = Surface(population, 0.5 * np.array(profiles), np.array(curvatures), top=0.5)
    surface.cliff = max(float(x_L.mean()) for x_L in surface.pareto_set(np.eye(size))) + 0.08
    return surface


class Examination:
    """Asks a candidate 200 items of each objective; returns mean and standard error."""

    def __init__(self, cell: Cell, surface: Surface) -> None:
        self._cell, self._surface = cell, surface

    def __call__(self, x_L: Array, number: int) -> tuple[Array, Array]:
        own = np.random.default_rng([self._cell.seed, 1, number])
        common = own if self._cell.fresh else np.random.default_rng([self._cell.seed, 2])
        means = []
        for ability in self._surface.abilities(x_L):
            slope_N, difficulty_N = Population.draw(common, ITEMS)
            shared_N = np.sqrt(SHARED_LUCK) * common.standard_normal(ITEMS)
            luck_N = ndtr(shared_N + np.sqrt(1 - SHARED_LUCK) * own.standard_normal(ITEMS))
            means.append(float((luck_N < expit(slope_N * (ability - difficulty_N))).mean()))
        mean_M = np.array(means)
        return mean_M, np.sqrt(mean_M * (1 - mean_M) / (ITEMS - 1))


def decode(knobs_D: Sequence[float], cell: Cell) -> Array:
    """Knots, linear over depth, for each module in turn."""
    at_K, depth_L = np.linspace(0, 1, cell.knots), np.linspace(0, 1, cell.layers)
    return np.hstack([np.interp(depth_L, at_K, k) for k in np.reshape(knobs_D, (-1, cell.knots))])
