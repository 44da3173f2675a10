"""Constraints on objectives, and the reference from which improvement counts under them.

Shapes: N candidates, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

Least = Sequence[float | None]
"""Constraints: the least value of each objective, None where any will do."""


def reference_point(values_NM: ArrayLike, configured: Sequence[float] | None) -> Array:
    """Return the configured reference (M,); without one, a point just below the worst values.

    Raises:
        ValueError: neither a reference nor any values.
    """
    if configured is not None:
        return np.asarray(configured, dtype=np.float64)
    values = np.asarray(values_NM, dtype=np.float64)
    low_M, high_M = values.min(axis=0), values.max(axis=0)
    reference_M: Array = low_M - 0.1 * (high_M - low_M) - 1e-6
    return reference_M


def raised(reference_M: Array, least: Least | None) -> Array:
    """Return the reference (M,), raised to the constraint of each objective that has one."""
    if least is None:
        return reference_M
    return np.maximum(reference_M, [-np.inf if bound is None else bound for bound in least])


def shortfalls(values_NM: ArrayLike, least: Least | None) -> Array:
    """Return how far each of N candidates falls short of the constraints, summed over them (N,)."""
    values = np.asarray(values_NM, dtype=np.float64)
    if least is None:
        return np.zeros(len(values))
    bound_M = np.array([-np.inf if bound is None else bound for bound in least])
    short_N: Array = np.maximum(bound_M - values, 0.0).sum(axis=1)
    return short_N
