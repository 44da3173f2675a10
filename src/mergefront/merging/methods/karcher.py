"""Karcher mean: the point of the sphere with the least weighted squared arc length to all sources.

    m <- exp_m( sum_i w_i log_m(u_i) ),  u_i = x_i / |x_i|,  until the step is below 1e-12
    x = (sum_i w_i |x_i|) m

Points, weights and `origin` are as in `multislerp`, of which this is the limit of many steps. All
happens in the Gram matrix, so that the number of steps costs nothing. mergekit stops after ten
steps or at 1e-5 and always weighs the sources equally.

Reference: Karcher, Riemannian center of mass and mollifier smoothing, CPAM 30 (1977); for models
arXiv:2603.04972.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mergefront.merging.methods.gram import norms
from mergefront.merging.methods.multislerp import SphereMethod

_STEPS: Final = 100
_TOLERANCE: Final = 1e-12


class Karcher(SphereMethod):
    """Fixed-point iteration of the exponential map."""

    name = "karcher"

    def mean(
        self, gram_KK: NDArray[np.float64], weights_K: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The mean's coordinates; zero vectors have no direction and only count in the norm."""
        length = norms(gram_KK)
        nonzero = length > 0.0
        total = float(weights_K[nonzero].sum())
        if total == 0.0:
            return weights_K
        unit = gram_KK[np.ix_(nonzero, nonzero)] / np.outer(length[nonzero], length[nonzero])
        w = weights_K[nonzero] / total
        m = _normalised(unit, w)
        for _ in range(_STEPS):
            cosine = np.clip(unit @ m, -1.0, 1.0)
            theta = np.arccos(cosine)
            stretch = np.where(
                theta > _TOLERANCE, theta / np.maximum(np.sin(theta), _TOLERANCE), 1.0
            )
            tangent = w * stretch - float((w * stretch) @ cosine) * m
            step = math.sqrt(max(0.0, float(tangent @ unit @ tangent)))
            if step < _TOLERANCE:
                break
            m = _normalised(unit, math.cos(step) * m + math.sin(step) / step * tangent)
        coordinates = np.zeros_like(weights_K)
        coordinates[nonzero] = float(weights_K @ length) * m / length[nonzero]
        return coordinates


def _normalised(unit: NDArray[np.float64], m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale to norm one; where the points balance out, start at the first."""
    size = math.sqrt(max(0.0, float(m @ unit @ m)))
    if size < _TOLERANCE:
        first: NDArray[np.float64] = np.eye(len(m))[0]
        return first
    return m / size
