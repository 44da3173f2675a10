"""One CMA-ES on the unit box, with sampling and learning apart: pycma made replayable.

`draw` changes nothing: it takes the generator to draw with. `tell` is the only change of state and
uses no random numbers. pycma keeps samples it has sent, draws from numpy's global generator and
wants `ask` before each `tell`; this module, the only one that touches pycma, undoes all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FULL_COVARIANCE_UP_TO = 10
"""Dimensions; above, only variances are adapted, which learns D times faster (Ros and Hansen,
A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity, PPSN 2008)."""

_SMALLEST_STEP = 0.01
"""Standard deviations in the unit box stay above this: item noise hides finer steps."""


class _Normal:
    """pycma's `randn`: standard normal numbers from the generator of the present draw."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __call__(self, *shape: int) -> NDArray[np.float64]:
        return self.generator.standard_normal(shape)


class Kernel:
    """A CMA-ES with mean in [0, 1]^D that maximises; any number of points may be told at once.

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
            "seed": np.nan,  # not a number: do not seed numpy's global generator
            "verbose": -9,
            "verb_log": 0,
        }
        self._es = cma.CMAEvolutionStrategy(self._pad(mean_D), step, options)
        self._open()

    def draw(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """Return a new point of the present distribution, in [0, 1]^D."""
        self._normal.generator = generator
        es = self._es
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

    def _pad(self, point_D: Sequence[float]) -> NDArray[np.float64]:
        """Return a copy; pycma does not do one dimension, so that gets an idle second one."""
        idle = [0.5] if self._dimension == 1 else []
        return np.array([*point_D, *idle], dtype=float)
