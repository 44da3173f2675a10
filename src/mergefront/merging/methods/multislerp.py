"""Multi-source SLERP: a barycentre on the sphere, taken in the tangent space at the chord mean.

    u_i = x_i / |x_i|;  m = sum_i w_i u_i, normalised
    v = sum_i w_i (u_i - <u_i, m> m)
    x = (sum_i w_i |x_i|) (cos|v| m + sin|v| v / |v|)

The points are the receiver and the donors, the weights the donors' coefficients and for the
receiver what they leave of one. `origin` is the centre of the sphere: "zero" (default, x_i is the
source itself) or "base" (x_i is its delta from the common base). All coefficients zero is the
receiver, one of them one is that donor.

Reference: published with mergekit, without a paper ("multislerp" in its documentation).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mergefront.merging.method import (
    BASE_TERM,
    Measures,
    Method,
    Mix,
    Slot,
    Term,
    choice,
    donor_coefficients,
)
from mergefront.merging.methods.gram import gram, norms
from mergefront.merging.methods.linear import remainder

_TINY: Final = 1e-12


@dataclass(frozen=True)
class SphereMethod(Method):
    """A weighted mean on a sphere: a subclass says which, in coordinates of the points' span."""

    origin: Literal["zero", "base"] = choice("zero", "base")

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver and the donors; before them the base, if it is the origin."""
        points = super().terms(donors)
        return (BASE_TERM, *points) if self.origin == "base" else points

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """The Gram matrix of receiver and donors, as seen from the origin."""
        points = [slot.read(source) for source in ("receiver", *donors)]
        if self.origin == "base":
            base = slot.read("base").float()
            points = [point.float() - base for point in points]
        return {"gram": gram(points)}

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The mean's coordinates, and what they leave of one for a base."""
        points = super().terms(donors)
        coefficients = donor_coefficients(row, donors).values()
        w = np.array([remainder(coefficients), *coefficients])
        nonzero = np.flatnonzero(w)
        if len(nonzero) == 1 and w[nonzero[0]] == 1.0:
            return Mix.sum({points[nonzero[0]]: 1.0})
        x = self.mean(measures["gram"], w)
        weights = dict(zip(points, map(float, x), strict=True))
        if self.origin == "base":
            weights = {BASE_TERM: remainder(weights.values()), **weights}
        return Mix.sum(weights)

    @abstractmethod
    def mean(
        self, gram_KK: NDArray[np.float64], weights_K: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the mean's coordinates in the points: mean = sum_i x_i point_i."""


class MultiSlerp(SphereMethod):
    """Tangent space at the normalised chord mean."""

    name = "multislerp"

    def mean(
        self, gram_KK: NDArray[np.float64], weights_K: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """One step of the exponential map; the chord where the points balance out."""
        length = norms(gram_KK)
        w = np.where(length > 0.0, weights_K, 0.0)
        safe = np.where(length > 0.0, length, 1.0)
        m = w / safe
        size = _norm(gram_KK, m)
        if size < _TINY:
            return weights_K
        m /= size
        tangent = w / safe - float((w / safe) @ gram_KK @ m) * m
        angle = _norm(gram_KK, tangent)
        arc = math.sin(angle) / angle if angle > _TINY else 1.0
        coordinates: NDArray[np.float64] = float(weights_K @ length) * (
            math.cos(angle) * m + arc * tangent
        )
        return coordinates


def _norm(gram_KK: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    """Norm of sum_i x_i point_i; rounding can make its square slightly negative."""
    return math.sqrt(max(0.0, float(x @ gram_KK @ x)))
