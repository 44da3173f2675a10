"""COMO-CMA-ES, and a scalarised CMA-ES: several CMA-ES along the front, made replayable.

In COMO-CMA-ES each of p kernels is a CMA-ES that maximises the uncrowded hypervolume improvement of
its points over the other kernels' incumbents; together they maximise the hypervolume of the
incumbents.

Trial `number` belongs to kernel `number % p`, and a kernel learns when a population of its own
trials has been told, in whatever order. By what merit a kernel ranks points a subclass says: that
improvement (`ComoCmaProposer`), or a weighting of its own (`ScalarCmaProposer`).

A kernel also learns from the best recent points of the others, shortened to a likely length; a
night has some hundred candidates, and this was worth it (measured in docs/lab.md). Kernels start
along the front of the warm starts; without any, around the space's start.

State is a fold over the tells and uses no random numbers; these enter only when a point is drawn,
seeded by the trial's number. Hence a sampler that starts from nothing replays exactly.

Reference: Toure, Hansen, Auger, Brockhoff, Uncrowded Hypervolume Improvement: COMO-CMA-ES and
the Sofomore framework, GECCO 2019, arXiv:1904.08823 (algorithms 2 and 3). Different here, because
a night has some hundred candidates: the incumbent is a kernel's best evaluated point of its last
population; the paper evaluates the kernel's mean for that, one candidate in each generation.

Reading order: `KernelProposer`, `Kernel` (one CMA-ES, the only user of pycma). Shapes:
N points, D knobs, M objectives.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mergefront.sampling.problem import Array, Problem
from mergefront.sampling.replay import Proposer, Tell
from mergefront.seeds import Purpose, generator
from mergefront.stats.pareto import non_dominated, uncrowded_improvement

Values = tuple[float, ...]

_POPULATION = 6  # smallest that pycma adapts its step by path length for
_GUESTS = 3  # points of others that a kernel learns from in each generation
_JITTER = 0.1  # standard deviation of the kernels' places around the warm starts' line
_FULL_COVARIANCE_UP_TO = 10
"""Dimensions; above, only variances are adapted, which learns D times faster (Ros and Hansen,
A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity, PPSN 2008)."""

_SMALLEST_STEP = 0.01
"""Standard deviations in the unit box stay above this: item noise hides finer steps."""

_STEPS = {1: 1, 2: 3, 3: 2, 4: 2}  # of the lattice: 1, 4, 6 and 10 kernels
_INWARD = 0.25  # share by which weightings move to the middle: none leaves an objective out
_SUM = 0.05  # the augmentation
_SMALLEST_RANGE = 0.01  # of an objective, one point of score, for its scaling
_BROKEN = 1e3  # a candidate that breaks a constraint ranks behind all that break none


class KernelProposer(Proposer):
    """`count` kernels that learn from what is told; a subclass says what each of them maximises.

    Everything it keeps is a fold over the tells that it saw last. Until one of its own points is
    told, kernels may be laid anew.
    """

    def __init__(self, problem: Problem, count: int) -> None:
        assert len(problem.start) == problem.dimension
        self._problem = problem
        self._count = count
        self._begin()

    @abstractmethod
    def merit(self, kernel: int, history: Sequence[Values]) -> Callable[[Values], float]:
        """Return what a kernel maximises, a function of a candidate's values.

        `history` has all values told so far.
        """

    def propose(self, tells: Sequence[Tell], number: int) -> Array:
        if list(tells[: len(self._tells)]) != self._tells:
            self._begin()
        for tell in tells[len(self._tells) :]:
            self._tell(tell)
        kernel = self._kernels()[number % self._count]
        return kernel.draw(generator(self._problem.seed, Purpose.KERNEL_DRAW, number))

    def _begin(self) -> None:
        self._tells: list[Tell] = []
        self._working: list[Kernel] | None = None
        self._drafts: tuple[int, list[Kernel]] = (-1, [])
        self._populations: list[list[Tell]] = [[] for _ in range(self._count)]
        self._incumbents: list[Values | None] = [None] * self._count

    def _kernels(self) -> list[Kernel]:
        """Return the kernels to draw from now."""
        if self._working is not None:
            return self._working
        if self._drafts[0] != len(self._tells):
            self._drafts = (len(self._tells), self._new_kernels())
        return self._drafts[1]

    def _new_kernels(self) -> list[Kernel]:
        """Lay kernels evenly along the warm starts' front, lowest first objective first."""
        line, kernels = self._line(), []
        step = min(0.25, 0.5 / math.sqrt(self._problem.dimension))
        places = (np.arange(self._count) + 0.5) / self._count * (len(line) - 1)
        for index, place in enumerate(places):
            lower = math.floor(place)
            upper = min(lower + 1, len(line) - 1)
            mean_D = line[lower] + (place - lower) * (line[upper] - line[lower])
            random = generator(self._problem.seed, Purpose.KERNEL_MEAN, index)
            mean_D = np.clip(mean_D + _JITTER * random.standard_normal(len(mean_D)), 0.0, 1.0)
            kernels.append(Kernel(mean_D.tolist(), step, _POPULATION))
        return kernels

    def _line(self) -> Array:
        evaluated = [(tell.values, tell.point) for tell in self._tells if tell.values is not None]
        if not evaluated:
            return np.array([self._problem.start])
        front = non_dominated([values for values, _ in evaluated])
        return np.array([point for _, point in sorted(evaluated[i] for i in front)])

    def _tell(self, tell: Tell) -> None:
        """Take in one more finished trial."""
        if tell.proposed:
            self._working = self._kernels()
        self._tells.append(tell)
        if not tell.proposed:
            return
        kernel = tell.number % self._count
        self._populations[kernel].append(tell)
        if len(self._populations[kernel]) == _POPULATION:
            self._learn(kernel, self._populations[kernel])
            self._populations[kernel] = []

    def _learn(self, kernel: int, population: list[Tell]) -> None:
        """Rank a kernel's population, with guests, and adapt; failed points come last."""
        numbers = {tell.number for tell in population}
        latest = self._tells[-self._count * _POPULATION :]
        guests = [tell for tell in latest if tell.values and tell.number not in numbers]
        evaluated = [tell for tell in population if tell.values]
        if not evaluated:
            return  # nothing to learn from a population that failed as a whole
        history = [tell.values for tell in self._tells if tell.values is not None]
        merit = self.merit(kernel, history)
        fitness = {t.number: merit(t.values) for t in (*evaluated, *guests) if t.values}
        guests.sort(key=lambda tell: (-fitness[tell.number], tell.number))
        batch = population + guests[:_GUESTS]
        last = min(fitness.values()) - 1.0
        self._kernels()[kernel].tell(
            [tell.point for tell in batch], [fitness.get(tell.number, last) for tell in batch]
        )
        self._incumbents[kernel] = max(evaluated, key=lambda tell: fitness[tell.number]).values


class ComoCmaProposer(KernelProposer):
    """The sampler `como-cma`, with two kernels for each objective.

    Constraints raise the reference: a candidate that breaks one counts minus its distance from
    the corner, and kernels climb towards it.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, 1 if problem.n_objectives == 1 else 2 * problem.n_objectives)

    def merit(self, kernel: int, history: Sequence[Values]) -> Callable[[Values], float]:
        """Return the uncrowded hypervolume improvement over the other kernels' incumbents."""
        rivals = [v for k, v in enumerate(self._incumbents) if k != kernel and v is not None]
        reference_M = self._problem.raised(self._problem.reference_point(history))
        rivals_KM = np.array(rivals).reshape(-1, len(reference_M))
        return lambda values: uncrowded_improvement(np.array(values), rivals_KM, reference_M)


class ScalarCmaProposer(KernelProposer):
    """The sampler `cma`: 1, 4, 6 or 10 kernels for 1 to 4 objectives, each with its own weighting.

    The weightings are spread over the simplex, so that the kernels together cover the front. With
    objectives scaled to v in [0, 1] (0 at the reference, 1 at the best value told) a kernel with
    weights w maximises the augmented Chebyshev value

        min_m w_m (v_m - 1) + 0.05 sum_m w_m (v_m - 1).

    A weighted sum would not do: with whatever weights, it reaches no point in a hollow of the
    front, and it tends to the ends of a straight one. The small sum keeps kernels off points that
    are only weakly non-dominated.

    Without a reference the scale begins just below the worst values told. Candidates that break a
    constraint rank behind all others, by how much they break it.

    References: Steuer and Choo, Mathematical Programming 26 (1983) (the augmented Chebyshev value);
    Das and Dennis, SIAM Journal on Optimization 8 (1998) (the lattice of weights).
    """

    def __init__(self, problem: Problem) -> None:
        self._weights_WM = weightings(problem.n_objectives)
        super().__init__(problem, len(self._weights_WM))

    def merit(self, kernel: int, history: Sequence[Values]) -> Callable[[Values], float]:
        """Return the scalarised value by the kernel's weighting."""
        low_M, high_M = self._problem.reference_point(history), np.max(history, axis=0)
        range_M = np.maximum(high_M - low_M, _SMALLEST_RANGE)

        def worth(values: Values) -> float:
            short = float(self._problem.shortfalls([values])[0])
            if short > 0.0:
                return -_BROKEN * (1.0 + short)
            return scalarised((np.asarray(values) - low_M) / range_M, self._weights_WM[kernel])

        return worth


def scalarised(scaled_M: Array, weights_M: Array) -> float:
    """Return the augmented Chebyshev value of scaled objectives, to be maximised."""
    weighed_M = weights_M * (scaled_M - 1.0)
    return float(weighed_M.min() + _SUM * weighed_M.sum())


def weightings(n_objectives: int) -> Array:
    """Return W weightings (W, M), each positive with sum 1, by the first objective's weight.

    An even lattice on the simplex, moved towards its middle by a quarter.
    """
    steps = _STEPS[n_objectives]
    places = combinations(range(steps + n_objectives - 1), n_objectives - 1)  # of the dividers
    ends = (steps + n_objectives - 1,)
    lattice_WM = np.array([np.diff((-1, *place, *ends)) - 1.0 for place in places]) / steps
    return (1.0 - _INWARD) * lattice_WM + _INWARD / n_objectives


class _Normal:
    """pycma's `randn`: standard normal numbers from the generator of the present draw.

    Left alone, pycma draws from numpy's global generator.
    """

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __call__(self, *shape: int) -> Array:
        return self.generator.standard_normal(shape)


class Kernel:
    """A CMA-ES with mean in [0, 1]^D that maximises; any number of points may be told at once.

    `draw` changes nothing, and `tell` uses no random numbers. pycma by itself keeps the samples
    that it has sent, and wants `ask` before each `tell`: this class undoes both.

    Bounds are kept by pycma's BoundTransform, a smooth map onto the box. Points that were not
    drawn here are shortened to a likely length, as pycma does with injected points (Hansen:
    Injecting External Solutions Into CMA-ES, 2011, arXiv:1110.4181).
    """

    def __init__(self, mean_D: Sequence[float], step: float, population: int) -> None:
        import cma

        self._dimension = len(mean_D)
        self._normal = _Normal()
        options: dict[str, Any] = {
            "bounds": [0, 1],
            "popsize": population,
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,  # else its own points in high D
            "CMA_diagonal": self._dimension > _FULL_COVARIANCE_UP_TO,
            "minstd": _SMALLEST_STEP,
            "randn": self._normal,
            "seed": np.nan,  # pycma seeds numpy's global generator with any other value, also 0
            "verbose": -9,
            "verb_log": 0,
        }
        self._es = cma.CMAEvolutionStrategy(self._pad(mean_D), step, options)
        self._open()

    def draw(self, generator: np.random.Generator) -> Array:
        """Return a new point of the present distribution, in [0, 1]^D."""
        self._normal.generator = generator
        es = self._es
        # x = m + sigma y, y ~ N(0, C) (Hansen, The CMA Evolution Strategy: A Tutorial,
        # arXiv:1604.00772, equations 38 to 40), without the bookkeeping of pycma's `ask`.
        step_D = es.sigma * es.sigma_vec.scaling * np.asarray(es.sm.sample(1)[0])
        point_D = np.asarray(es.boundary_handler.repair(es.mean + step_D))
        return np.clip(point_D, 0.0, 1.0)[: self._dimension]

    def tell(self, points_ND: Sequence[Sequence[float]], fitness_N: Sequence[float]) -> None:
        """Adapt mean, step and covariance to points whose fitness is to be maximised (N >= 4)."""
        points = [self._pad(point) for point in points_ND]
        self._es.tell(points, [-float(value) for value in fitness_N])
        self._open()

    def _open(self) -> None:
        """Begin a generation: pycma decomposes the covariance in `ask` and insists on the call."""
        self._normal.generator = np.random.default_rng(0)
        self._es.ask(1)
        self._es.sent_solutions.clear()

    def _pad(self, point_D: Sequence[float]) -> Array:
        """Return a copy; pycma does not do one dimension, so that gets an idle second one."""
        idle = [0.5] if self._dimension == 1 else []
        return np.array([*point_D, *idle], dtype=float)
