"""How the values of a few knobs become one value per layer: a linear map, or a ramp over depth.

Not here: which of them a space file asks for (`layers`), donors, parts and coefficients (`lines`).
Shapes: S knobs of a curve, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import lsq_linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RAMP_WIDTH: Final = 1 / 12
"""Width of a ramp's step in units of depth: it goes from 10 % to 90 % over 0.37 of the depth."""
FITTED_TURNS: Final = 101
"""How many turning points a fit tries."""

KnobRange = tuple[float, float, float]
"""Low, high and start of a knob."""


@dataclass(frozen=True)
class Linear:
    """The linear map from knob values to layers.

    `rows[l]` are (knob, weight) pairs; without waves a layer's weights sum to one. `waves` are the
    knobs that do not move the mean over layers: their bounds are half the line's width on both
    sides of 0, and the sum of all knobs is clipped to the line's bounds.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[tuple[int, float], ...], ...]
    waves: frozenset[int] = frozenset()

    @property
    def size(self) -> int:
        """S, the number of knobs."""
        return len(self.labels)

    @cached_property
    def matrix_LS(self) -> Array:
        """The map as a matrix."""
        matrix_LS = np.zeros((len(self.rows), self.size))
        for layer, row in enumerate(self.rows):
            for knob, weight in row:
                matrix_LS[layer, knob] = weight
        return matrix_LS

    def ranges(self, low: float, high: float, start: float) -> list[KnobRange]:
        """Return each knob's bounds and start for coefficients in [low, high]."""
        half = (high - low) / 2
        return [
            (-half, half, 0.0) if knob in self.waves else (low, high, start)
            for knob in range(self.size)
        ]

    def value_at(self, values: Sequence[float], layer: int) -> float:
        """Return the value at a layer. Equal neighbours give exactly their value."""
        (first, _), *rest = self.rows[layer]
        if self.waves:
            return math.fsum(values[knob] * weight for knob, weight in self.rows[layer])
        start = values[first]
        return start + sum(weight * (values[knob] - start) for knob, weight in rest)

    def constant(self, value: float) -> tuple[float, ...]:
        """Return the knob values that give `value` at every layer."""
        return tuple(0.0 if knob in self.waves else value for knob in range(self.size))

    def fit(
        self, target: Sequence[float], layers: Sequence[int], low: float, high: float
    ) -> tuple[float, ...]:
        """Return the values within bounds that come nearest to a target, by least squares."""
        matrix = self.matrix_LS[list(layers)]
        return _bounded(matrix, np.asarray(target), self.ranges(low, high, low))


@dataclass(frozen=True)
class Ramp:
    """A smooth step from an early level to a late one, with a turning point in [0, 1] of depth.

    At depth x = l / (L - 1) the value is early + (late - early) / (1 + exp((turn - x) / width)):
    between the two levels everywhere, and equal levels give exactly that level.
    """

    n_layers: int
    labels: tuple[str, ...] = ("early", "late", "turn")

    @property
    def size(self) -> int:
        """S, the number of knobs."""
        return len(self.labels)

    def ranges(self, low: float, high: float, start: float) -> list[KnobRange]:
        """Return each knob's bounds and start for coefficients in [low, high]."""
        return [(low, high, start), (low, high, start), (0.0, 1.0, 0.5)]

    def value_at(self, values: Sequence[float], layer: int) -> float:
        """Return the value at a layer."""
        early, late, turn = values
        share = 1.0 / (1.0 + math.exp((turn - self._depth(layer)) / RAMP_WIDTH))
        return early + share * (late - early)

    def constant(self, value: float) -> tuple[float, ...]:
        """Return the knob values that give `value` at every layer."""
        return value, value, 0.5

    def fit(
        self, target: Sequence[float], layers: Sequence[int], low: float, high: float
    ) -> tuple[float, ...]:
        """Return the nearest levels by least squares at the best of FITTED_TURNS turning points."""
        depths = np.array([self._depth(layer) for layer in layers])
        values, best, least = np.asarray(target), self.constant(low), math.inf
        for turn in np.linspace(0.0, 1.0, FITTED_TURNS):
            share = 1.0 / (1.0 + np.exp((turn - depths) / RAMP_WIDTH))
            matrix = np.stack([1.0 - share, share], axis=1)
            early, late = _bounded(matrix, values, [(low, high, low)] * 2)
            error = float(((matrix @ (early, late) - values) ** 2).sum())
            if error < least - 1e-15:
                best, least = (early, late, float(turn)), error
        return best

    def _depth(self, layer: int) -> float:
        return layer / (self.n_layers - 1)


Curve = Linear | Ramp


def _bounded(matrix: Array, target: Array, ranges: Sequence[KnobRange]) -> tuple[float, ...]:
    """Solve a least-squares problem within bounds; the solver may miss a bound by a rounding."""
    low, high = ([knob_range[end] for knob_range in ranges] for end in (0, 1))
    values = lsq_linear(matrix, target, bounds=(low, high), method="bvls").x
    return tuple(float(value) for value in np.clip(values, low, high))
