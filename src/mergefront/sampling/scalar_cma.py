"""Scalarised CMA-ES: several CMA-ES kernels, each of which maximises its own weighting.

The weightings are spread over the simplex, so that the kernels together cover the front. With
objectives scaled to v in [0, 1] (0 at the reference, 1 at the best value told) a kernel with
weights w maximises the augmented Chebyshev value

    min_m w_m (v_m - 1) + 0.05 sum_m w_m (v_m - 1).

A weighted sum would not do: with whatever weights, it reaches no point in a hollow of the front,
and it tends to the ends of a straight one. The small sum keeps kernels off points that are only
weakly non-dominated.

Not here: the kernels (`cma`).

References: Steuer and Choo, Mathematical Programming 26 (1983) (the augmented Chebyshev value);
Das and Dennis, SIAM Journal on Optimization 8 (1998) (the lattice of weights).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from mergefront.sampling.cma import KernelProposer, Values
from mergefront.sampling.problem import Array, Problem

_STEPS = {1: 1, 2: 3, 3: 2, 4: 2}  # of the lattice: 1, 4, 6 and 10 kernels
_INWARD = 0.25  # share by which weightings move to the middle: none leaves an objective out
_SUM = 0.05  # the augmentation
_SMALLEST_RANGE = 0.01  # of an objective, one point of score, for its scaling
_BROKEN = 1e3  # a candidate that breaks a constraint ranks behind all that break none


class ScalarCmaProposer(KernelProposer):
    """The sampler `cma`: 1, 4, 6 or 10 kernels for 1 to 4 objectives.

    Without a reference the scale begins just below the worst values told. Candidates that break a
    constraint rank behind all others, by how much they break it.
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
