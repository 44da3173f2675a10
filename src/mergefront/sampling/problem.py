"""What a sampler is to solve: its box, its objectives, and from where improvement counts.

Shapes: N candidates, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Points in [0, 1]^D, and 1 to 4 objectives to maximise.

    `seed` is the run's (>= 0). `start`, of length D, is where como-cma and cma begin without warm
    starts. `reference`, of length M, is the hypervolume's reference of noisy-gp and como-cma and
    where the scale of cma begins (default: just below the worst values told). `constraints`, of
    length M, is the least value of each objective, None where any will do.
    """

    dimension: int
    seed: int
    n_objectives: int
    start: Sequence[float] = ()
    reference: Sequence[float] | None = None
    constraints: Sequence[float | None] | None = None

    def reference_point(self, values_NM: ArrayLike) -> Array:
        """Return the reference (M,); without one, a point just below the worst values.

        Raises:
            ValueError: neither a reference nor any values.
        """
        if self.reference is not None:
            return np.asarray(self.reference, dtype=np.float64)
        values = np.asarray(values_NM, dtype=np.float64)
        low_M, high_M = values.min(axis=0), values.max(axis=0)
        reference_M: Array = low_M - 0.1 * (high_M - low_M) - 1e-6
        return reference_M

    def raised(self, reference_M: Array) -> Array:
        """Return a reference (M,), raised to the constraint of each objective that has one."""
        return reference_M if self._least_M is None else np.maximum(reference_M, self._least_M)

    def shortfalls(self, values_NM: ArrayLike) -> Array:
        """Return how far each of N candidates falls short of the constraints in all (N,)."""
        values = np.asarray(values_NM, dtype=np.float64)
        if self._least_M is None:
            return np.zeros(len(values))
        short_N: Array = np.maximum(self._least_M - values, 0.0).sum(axis=1)
        return short_N

    @property
    def _least_M(self) -> Array | None:
        least = self.constraints
        return None if least is None else np.array([-np.inf if b is None else b for b in least])
