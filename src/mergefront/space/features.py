"""Points of a search space as vectors on which a model of scores measures distance.

Distance is measured on coefficients and not on knobs, so that candidates stay comparable when a
space is refined: the same table has the same features under either space. Not here: the model
(`surrogate`). Shapes: N points, D knobs, F features, P parameters of the method that are searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mergefront.space.file import CHOOSE, KnobSpec
from mergefront.space.knobs import Knob
from mergefront.space.lines import Claim

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


class FeatureMap:
    """Points in [0, 1]^D -> features.

    Features are the coefficients in units of their bounds' width, one for each claim, layer and
    donor with knobs of its own, then the searched parameters in units of theirs. Each is weighted
    so that the mean squared difference of two points over features is

        (C m + sum of the parameters' P squared differences) / (C + P),

    m the mean over all entries of the table (embedding, norms and tied donors counted one by one),
    C the number of claims: a parameter weighs as much as a line of knobs does on average. Choices
    show in the coefficients alone, and whole parameters by their values, for one model must have
    one vector however it came about.
    """

    def __init__(self, claims: Sequence[Claim], knobs: Sequence[Knob]) -> None:
        """Prepare the map of a space's claims and all its D knobs, those of parameters last."""
        self._claims = claims
        rows = [(knob.low, knob.high - knob.low, knob.bins, knob.whole) for knob in knobs]
        self._low_D, self._width_D, self._bins_D, whole_D = np.array(rows, dtype=np.float64).T
        self._whole_D = whole_D > 0
        entries = np.array([n for claim in claims for n in claim.multiplicity_C], dtype=np.float64)
        n_parameters = len(knobs) - sum(len(claim.knobs) for claim in claims)
        units = len(claims) + n_parameters
        coefficients = entries / entries.sum() * len(claims) / units
        shares_F = np.append(coefficients, np.full(n_parameters, 1.0 / units))
        self._weights_F = np.sqrt(shares_F * len(shares_F))

    def __call__(self, points_ND: ArrayLike) -> Array:
        """Return the features of N points, (N, F).

        Raises:
            ValueError: if the points have another dimension or leave [0, 1].
        """
        u_ND = np.atleast_2d(np.asarray(points_ND, dtype=np.float64))
        dimension = len(self._low_D)
        if u_ND.shape[1] != dimension or not ((u_ND >= 0.0) & (u_ND <= 1.0)).all():
            raise ValueError(f"expected points of {dimension} values in [0, 1]")
        numbers_ND, first, columns = self._numbers(u_ND), 0, []
        for claim in self._claims:
            mine_NS = numbers_ND[:, first : first + len(claim.knobs)]
            columns.append(claim.coefficients(mine_NS) / _width(claim.line))
            first += len(claim.knobs)
        units_NP = (numbers_ND - self._low_D)[:, first:] / self._width_D[first:]
        own_NP = np.where(self._whole_D[first:], units_NP, u_ND[:, first:])
        found: Array = np.concatenate([*columns, own_NP], axis=1) * self._weights_F
        return found

    def _numbers(self, u_ND: Array) -> Array:
        """What `Knob.number` gives, for all at once."""
        numbers_ND: Array = self._low_D + u_ND * self._width_D
        if self._bins_D.any():
            bins_ND = np.minimum(np.floor(u_ND * self._bins_D), self._bins_D - 1)
            bins_ND = np.where(self._whole_D, self._low_D + bins_ND, bins_ND)
            numbers_ND = np.where(self._bins_D > 0, bins_ND, numbers_ND)
        return numbers_ND


def _width(line: KnobSpec) -> float:
    """The range of a line's coefficients; for choices the receiver's 0 is one of them."""
    if line.donors == CHOOSE:
        return max(line.high, 0.0) - min(line.low, 0.0) or 1.0
    return line.high - line.low
