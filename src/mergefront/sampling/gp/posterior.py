"""What all candidates together say of each: a surface for every objective, and one of collapses.

The sampler, the race, the display and the front that is reported all believe this, so that there
is one answer to "how good is candidate 17". A candidate that collapsed (less than half the
reference in an objective) stays out of the surfaces, which a cliff would ruin.

Not here: one surface (`process`), where its data come from and whether it is believed
(`runs.belief`, `sampling.noisy_gp`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergefront.sampling import gp
from mergefront.sampling.problem import Array
from mergefront.stats.pareto import collapsed

FEWEST: Final = 4
"""Candidates that stand, with fewer of which there is no model."""
TRUSTED_FROM: Final = 24
"""Candidates that stand, from which a model may be believed rather than the scores."""

_DOUBT = 0.1  # standard error of the labels 0 and 1 of candidates that stand and that collapsed
_REMEMBERED = 4
_lock = Lock()


@dataclass(frozen=True)
class Posterior:
    """Surfaces fitted to N told candidates; `not_collapsed_N` says who has not collapsed.

    `surfaces` holds one for each of M objectives, or none if fewer than FEWEST candidates stand.
    `collapse` foretells labels, 1 where a candidate collapsed; None if none did.
    """

    not_collapsed_N: NDArray[np.bool_]
    surfaces: tuple[gp.GaussianProcess, ...] = ()
    collapse: gp.GaussianProcess | None = None

    @property
    def misfits(self) -> tuple[bool, ...]:
        """For each objective, whether its surface errs more than it says."""
        return tuple(surface.calibration().misfit for surface in self.surfaces)

    def mean(self, features_PF: ArrayLike) -> Array:
        """Return the posterior means at P points (P, M), without noise."""
        return np.column_stack([surface.mean(features_PF) for surface in self.surfaces])

    def deviation(self, features_PF: ArrayLike) -> Array:
        """Return the posterior standard deviations at P points (P, M), without noise."""
        return np.column_stack([surface.deviation(features_PF) for surface in self.surfaces])


_remembered: OrderedDict[tuple[object, ...], Posterior] = OrderedDict()


def fit(
    features_NF: ArrayLike,
    values_NM: ArrayLike,
    errors_NM: ArrayLike,
    partial_NM: ArrayLike,
    reference_M: ArrayLike,
) -> Posterior:
    """Return what N candidates say, each with F features; see `process.fit` for the arrays.

    The same numbers give the same object again: sampler, race and display ask for it, from two
    threads, of which the second waits for the first.
    """
    arrays = [
        np.asarray(a, dtype=np.float64)
        for a in (features_NF, values_NM, errors_NM, partial_NM, reference_M)
    ]
    key = tuple((array.shape, array.tobytes()) for array in arrays)
    with _lock:
        if key not in _remembered:
            _remembered[key] = _fit(*arrays)
            while len(_remembered) > _REMEMBERED:
                _remembered.popitem(last=False)
        return _remembered[key]


def _fit(
    features_NF: Array, values_NM: Array, errors_NM: Array, partial_NM: Array, reference_M: Array
) -> Posterior:
    if not len(values_NM):
        return Posterior(np.zeros(0, dtype=np.bool_))
    not_collapsed_N = ~collapsed(values_NM, reference_M)
    if not_collapsed_N.sum() < FEWEST:
        return Posterior(not_collapsed_N)
    collapse = None
    if not not_collapsed_N.all():
        doubt_N = np.full(len(not_collapsed_N), _DOUBT)
        collapse = gp.fit(features_NF, ~not_collapsed_N, doubt_N)
    surfaces = tuple(
        gp.fit(
            features_NF[not_collapsed_N],
            values_NM[not_collapsed_N, m],
            errors_NM[not_collapsed_N, m],
            partial_NM[not_collapsed_N, m],
        )
        for m in range(values_NM.shape[1])
    )
    return Posterior(not_collapsed_N, surfaces, collapse)
