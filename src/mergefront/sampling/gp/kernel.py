"""The kernel: how alike two candidates are taken to be, and how noisy a score is.

Reference: Rasmussen and Williams 2006, equation 4.17 with a lengthscale for each feature (5.1).
Shapes: N candidates, P points, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.lapack import dpotrf

from mergefront.sampling.problem import Array

SMALLEST_ERROR: Final = 0.002
"""Standard errors are clipped from below here: all items right or all wrong gives an error of 0."""
DEFAULT_ERROR: Final = 0.03
"""Stands for a standard error that is unknown: 280 items at one half."""
MEAN_VARIANCE: Final = 1.0
"""Of the constant c: scores lie in [0, 1], so this says nothing about it."""

_ROWS = 128  # of a block: large enough for a matrix product, small enough for a cache
_JITTER = 1e-10  # times the amplitude squared; raised tenfold until a covariance is positive


@dataclass(frozen=True)
class Kernel:
    """What is fitted: a lengthscale for each feature (or one for all), amplitude, share of noise.

    Distances are root mean squares over features of differences in units of the lengthscales, so
    that a lengthscale has one meaning at any number of features; two random points of the unit
    box are 0.41 apart at lengthscales of 1.
    """

    lengthscales: tuple[float, ...]
    amplitude: float
    own_share: float = 1.0

    def noise(self, errors_N: ArrayLike, partial_N: ArrayLike) -> Array:
        """Return the variance of each score about the surface (N,): p^2 + r (s^2 - p^2)."""
        own_N, shared_N = noise_parts(errors_N, partial_N)
        return own_N + self.own_share * shared_N

    def covariance(self, a_NF: Array, b_PF: Array) -> Array:
        """Return a^2 k (N, P) between feature vectors, without the constant."""
        scales_F = np.asarray(self.lengthscales)
        return self._of_scaled(a_NF / scales_F, b_PF / scales_F)

    def lower_covariance(self, a_NF: Array) -> Array:
        """Return the lower triangle of `covariance` of N feature vectors among themselves.

        What lies above it is partly 0: half the work, and all that a Cholesky factor needs.
        """
        scaled_NF = a_NF / np.asarray(self.lengthscales)
        lower_NN = np.zeros((len(a_NF), len(a_NF)))
        for start in range(0, len(a_NF), _ROWS):
            end = min(start + _ROWS, len(a_NF))
            lower_NN[start:end, :end] = self._of_scaled(scaled_NF[start:end], scaled_NF[:end])
        return lower_NN

    def _of_scaled(self, a_NF: Array, b_PF: Array) -> Array:
        """Return a^2 k of features in units of their lengthscales: few passes, few temporaries.

        With r the root of 5 d^2: a^2 (1 + r + r^2 / 3) exp(-r), equation 4.17.
        """
        squared_NP = squared_distances(a_NF, b_PF)
        squared_NP *= 5.0
        root_NP = np.sqrt(squared_NP)
        factor_NP = squared_NP
        factor_NP /= 3.0
        factor_NP += root_NP
        factor_NP += 1.0
        np.negative(root_NP, out=root_NP)
        factor_NP *= np.exp(root_NP, out=root_NP)
        factor_NP *= self.amplitude**2
        return factor_NP


def usable_errors(errors: ArrayLike) -> Array:
    """Return standard errors as a model takes them: none unknown, none below SMALLEST_ERROR."""
    array = np.asarray(errors, dtype=np.float64)
    usable: Array = np.maximum(np.where(np.isfinite(array), array, DEFAULT_ERROR), SMALLEST_ERROR)
    return usable


def noise_parts(errors_N: ArrayLike, partial_N: ArrayLike) -> tuple[Array, Array]:
    """Return the variances p^2 and s^2 - p^2, the latter not under SMALLEST_ERROR squared."""
    own_N = np.asarray(partial_N, dtype=np.float64) ** 2
    shared_N = np.maximum(np.asarray(errors_N) ** 2 - own_N, SMALLEST_ERROR**2)
    return own_N, shared_N


def squared_distances(a_NF: Array, b_PF: Array) -> Array:
    """Return mean squared differences (N, P) over features, to about 1e-15."""
    squared_NP: Array = a_NF @ b_PF.T  # |a - b|^2 = |a|^2 - 2 ab + |b|^2
    squared_NP *= -2.0
    squared_NP += (a_NF**2).sum(1)[:, None]
    squared_NP += (b_PF**2).sum(1)[None, :]
    np.maximum(squared_NP, 0.0, out=squared_NP)
    squared_NP /= a_NF.shape[1]
    return squared_NP


def cholesky(covariance_NN: Array, amplitude: float) -> Array:
    """Return the lower factor, adding to the diagonal as little as makes it positive.

    Only the lower triangle is read; the diagonal is written to.

    Raises:
        numpy.linalg.LinAlgError: nothing finite makes it positive.
    """
    diagonal_N = covariance_NN.diagonal().copy()
    jitter = _JITTER * amplitude**2
    while math.isfinite(jitter):
        np.fill_diagonal(covariance_NN, diagonal_N + jitter)
        # LAPACK stores columns first: the transpose of the lower triangle is read without a copy.
        upper_NN, failed = dpotrf(covariance_NN.T, lower=0, overwrite_a=0, clean=1)
        if not failed:
            lower_NN: Array = upper_NN.T
            return lower_NN
        jitter *= 10.0
    raise np.linalg.LinAlgError("a covariance is not finite")


def matrix(features: ArrayLike) -> Array:
    """Return features as a float matrix, one row a candidate."""
    return np.atleast_2d(np.asarray(features, dtype=np.float64))
