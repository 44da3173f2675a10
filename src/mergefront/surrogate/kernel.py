"""The kernel: how alike two candidates are taken to be, and how noisy a score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

SMALLEST_ERROR: Final = 0.002
"""Standard errors are clipped from below here: all items right or all wrong gives an error of 0."""
DEFAULT_ERROR: Final = 0.03
"""Stands for a standard error that is unknown: 280 items at one half."""
MEAN_VARIANCE: Final = 1.0
"""Of the constant c: scores lie in [0, 1], so this says nothing about it."""

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
        noise_N: Array = own_N + self.own_share * shared_N
        return noise_N

    def covariance(self, a_NF: Array, b_PF: Array) -> Array:
        """Return a^2 k (N, P) between feature vectors, without the constant."""
        scales_F = np.asarray(self.lengthscales)
        root_NP = np.sqrt(5.0 * squared_distances(a_NF / scales_F, b_PF / scales_F))
        correlation_NP: Array = (1.0 + root_NP + root_NP**2 / 3.0) * np.exp(-root_NP)
        return self.amplitude**2 * correlation_NP


def noise_parts(errors_N: ArrayLike, partial_N: ArrayLike) -> tuple[Array, Array]:
    """Return the variances p^2 and s^2 - p^2, the latter not under SMALLEST_ERROR squared."""
    own_N = np.asarray(partial_N, dtype=np.float64) ** 2
    shared_N = np.maximum(np.asarray(errors_N) ** 2 - own_N, SMALLEST_ERROR**2)
    return own_N, shared_N


def squared_distances(a_NF: Array, b_PF: Array) -> Array:
    """Return mean squared differences (N, P) over features, to about 1e-15."""
    squared_NP = (a_NF**2).sum(1)[:, None] + (b_PF**2).sum(1)[None, :] - 2.0 * (a_NF @ b_PF.T)
    clipped_NP: Array = np.maximum(squared_NP, 0.0) / a_NF.shape[1]
    return clipped_NP


def cholesky(covariance_NN: Array, amplitude: float) -> Array:
    """Return the lower factor, adding to the diagonal as little as makes it positive."""
    jitter = _JITTER * amplitude**2
    while True:
        try:
            lower_NN = np.linalg.cholesky(covariance_NN + jitter * np.eye(len(covariance_NN)))
        except np.linalg.LinAlgError:
            jitter *= 10.0
            if not math.isfinite(jitter):
                raise
        else:
            return np.asarray(lower_NN, dtype=np.float64)


def matrix(features: ArrayLike) -> Array:
    """Return features as a float matrix, one row a candidate."""
    return np.atleast_2d(np.asarray(features, dtype=np.float64))
