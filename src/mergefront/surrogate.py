"""A Gaussian process of one objective over all candidates, with each candidate's own noise known.

A score is the mean of some hundred marked items, so its standard error is known before any model
is fitted. The model is

    y_i = c + f(x_i) + e_i,  f ~ GP(0, a^2 k),  e_i ~ N(0, r s_i^2),  c ~ N(mean of y, 1),

with k a function of the root mean square distance between feature vectors. r is the share of a
candidate's error that is its own: candidates that answer the same items share the rest, which the
constant takes up. The kind of k, its lengthscale, the amplitude a and r are fitted: by the marginal
likelihood, on a fixed grid, so that the same data give the same model. Everything is dense algebra
in float64: up to about 1,000 candidates. The same machine with the same number of BLAS threads
repeats every bit; another one may differ in the last digits.

A merge can also collapse, and babble. A cliff is no Gaussian surface, so collapsed candidates are
told apart (`collapsed`) and their scores kept from the model.

Not here: which point to try next (`propose.noisy_gp`), fronts (`pareto`).

Reference: Rasmussen and Williams, Gaussian Processes for Machine Learning, MIT Press 2006:
equations 2.23-2.24 (posterior), 2.30 (marginal likelihood), 2.40 (constant mean with a normal
prior), 4.17 (Matern 5/2), 5.12 (leave one out).

Reading order: `fit`, `GaussianProcess`, `Calibration`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

Kind = Literal["rbf", "matern52"]

KINDS: Final[tuple[Kind, ...]] = ("rbf", "matern52")
LENGTHSCALES: Final = (0.08, 0.14, 0.25, 0.45, 0.8, 1.4)
"""In units of root mean square distance; two random points of the unit box are 0.41 apart."""
AMPLITUDES: Final = (0.3, 0.6, 1.2, 2.4)
"""In units of the standard deviation of the scores that were told."""
OWN_SHARES: Final = (1.0, 0.6, 0.35)
"""Of the squared standard error; 1 for candidates that answered different items."""

SMALLEST_ERROR: Final = 0.002
"""Standard errors are clipped from below here: all items right or all wrong gives an error of 0."""
DEFAULT_ERROR: Final = 0.03
"""Stands for a standard error that is unknown: 280 items at one half."""

_FIT_ON = 200  # points that choose kind, lengthscale and amplitude; all points enter the posterior
_MEAN_VARIANCE = 1.0  # of the constant c: scores lie in [0, 1], so this says nothing about it
_JITTER = 1e-10  # times the amplitude squared; raised tenfold until a covariance is positive


@dataclass(frozen=True)
class Kernel:
    """What is fitted: kind, lengthscale (root mean square distance), amplitude, share of noise."""

    kind: Kind
    lengthscale: float
    amplitude: float
    own_share: float = 1.0

    def covariance(self, squared_NP: Array) -> Array:
        """Return a^2 k for squared mean distances (see `squared_distances`), same shape."""
        scaled_NP = squared_NP / self.lengthscale**2
        if self.kind == "rbf":
            correlation_NP: Array = np.exp(-0.5 * scaled_NP)
        else:
            root_NP = np.sqrt(5.0 * scaled_NP)
            correlation_NP = (1.0 + root_NP + 5.0 / 3.0 * scaled_NP) * np.exp(-root_NP)
        return self.amplitude**2 * correlation_NP


@dataclass(frozen=True)
class Calibration:
    """How well candidates are foretold from all others: the model's right to be believed.

    `mean_square` of the standardised leave-one-out residuals is 1 for a model whose errors are as
    large as it says, more for one that is too sure; `within_95` is the share of candidates inside
    their 95 % prediction interval. `misfit` is set when the mean square exceeds 1 by more than
    three of its standard errors, sqrt(2 / n): the noise and the fitted surface do not explain the
    scores, and the front should be chosen without the model. `excess` is the mean squared residual
    over the mean squared standard error: what of the scores' differences is neither foretold nor
    noise; well above 1, more candidates or another space are needed.
    """

    n: int
    mean_square: float
    within_95: float
    excess: float
    misfit: bool


class GaussianProcess:
    """A fitted surface; see `fit`. N candidates with F features each."""

    def __init__(self, kernel: Kernel, features_NF: Array, values_N: Array, errors_N: Array):
        """Condition a process with a given kernel on scores and their standard errors."""
        self.kernel = kernel
        self._features_NF, self._errors_N = features_NF, errors_N
        self._centre = float(values_N.mean())
        self._values_N = values_N - self._centre
        total_NN = self._prior(squared_distances(features_NF, features_NF))
        total_NN[np.diag_indices_from(total_NN)] += kernel.own_share * errors_N**2
        self._lower_NN = _cholesky(total_NN, kernel.amplitude)
        self._weights_N = cho_solve((self._lower_NN, True), self._values_N)

    def log_likelihood(self) -> float:
        """Return the log marginal likelihood of the scores (equation 2.30)."""
        n = len(self._values_N)
        fit = -0.5 * float(self._values_N @ self._weights_N)
        volume = float(np.log(np.diag(self._lower_NN)).sum())
        return fit - volume - 0.5 * n * math.log(2.0 * math.pi)

    def mean(self, features_PF: ArrayLike) -> Array:
        """Return the posterior mean at P points, without noise (equation 2.23)."""
        cross_PN = self._prior(squared_distances(_matrix(features_PF), self._features_NF))
        mean_P: Array = self._centre + cross_PN @ self._weights_N
        return mean_P

    def posterior(self, features_PF: ArrayLike) -> tuple[Array, Array]:
        """Return mean (P,) and covariance (P, P) at P points, without noise (2.23, 2.24)."""
        points_PF = _matrix(features_PF)
        cross_NP = self._prior(squared_distances(self._features_NF, points_PF))
        half_NP = solve_triangular(self._lower_NN, cross_NP, lower=True)
        covariance_PP = self._prior(squared_distances(points_PF, points_PF)) - half_NP.T @ half_NP
        mean_P: Array = self._centre + cross_NP.T @ self._weights_N
        return mean_P, 0.5 * (covariance_PP + covariance_PP.T)

    def draw(self, features_PF: ArrayLike, generator: np.random.Generator) -> Array:
        """Return one surface that the scores allow, at P points: a joint posterior draw."""
        mean_P, covariance_PP = self.posterior(features_PF)
        lower_PP = _cholesky(covariance_PP, self.kernel.amplitude)
        drawn_P: Array = mean_P + lower_PP @ generator.standard_normal(len(mean_P))
        return drawn_P

    @cached_property
    def leave_one_out(self) -> tuple[Array, Array]:
        """Residual of each score from the prediction of all others, and its deviation (5.12).

        The deviation includes the noise of the score itself. The kernel is not fitted again.
        """
        inverse_NN = cho_solve((self._lower_NN, True), np.eye(len(self._values_N)))
        variance_N = 1.0 / np.diag(inverse_NN)
        return self._weights_N * variance_N, np.sqrt(variance_N)

    def calibration(self) -> Calibration:
        """Return how well each candidate is foretold from the others."""
        residual_N, deviation_N = self.leave_one_out
        standard_N = residual_N / deviation_N
        n, mean_square = len(standard_N), float((standard_N**2).mean())
        within = float((np.abs(standard_N) <= 1.959964).mean())
        excess = float((residual_N**2).mean() / (self._errors_N**2).mean())
        misfit = mean_square > 1.0 + 3.0 * math.sqrt(2.0 / n)
        return Calibration(n, mean_square, within, excess, misfit)

    def _prior(self, squared: Array) -> Array:
        return self.kernel.covariance(squared) + _MEAN_VARIANCE


def fit(features_NF: ArrayLike, values_N: ArrayLike, errors_N: ArrayLike) -> GaussianProcess:
    """Return the process of highest marginal likelihood over the grid; the first of equals.

    `features_NF` are N >= 1 vectors of F numbers of comparable scale, `values_N` finite scores,
    `errors_N` their standard errors; errors that are not finite count as `DEFAULT_ERROR`, smaller
    ones as `SMALLEST_ERROR`. With more than 200 candidates the grid is searched on 200 of them,
    evenly spaced in the order given; the process returned is conditioned on all.

    Raises:
        ValueError: no candidates, lengths that differ, or a number that is not finite.
    """
    features, values = _matrix(features_NF), np.asarray(values_N, dtype=np.float64)
    errors = np.asarray(errors_N, dtype=np.float64)
    if not len(values) or not len(features) == len(values) == len(errors):
        raise ValueError(
            f"{len(features)} points, {len(values)} values and {len(errors)} errors; "
            "expected one of each for every candidate, and at least one candidate"
        )
    if not (np.isfinite(features).all() and np.isfinite(values).all()):
        raise ValueError("a feature or a value is not finite; leave failed candidates out")
    errors = np.maximum(np.where(np.isfinite(errors), errors, DEFAULT_ERROR), SMALLEST_ERROR)
    some = np.arange(len(values))
    if len(values) > _FIT_ON:
        some = np.linspace(0, len(values) - 1, _FIT_ON).round().astype(np.intp)
    best = _best_kernel(features[some], values[some], errors[some])
    return GaussianProcess(best, features, values, errors)


def collapsed(values_NM: ArrayLike, reference_M: ArrayLike) -> NDArray[np.bool_]:
    """Return which candidates score less than half the reference in some objective (N,).

    The reference is the receiver or somewhat below it: a model at half of that is broken, not bad.
    Of a reference below 0, the half lies as far beneath it.
    """
    values, reference_M = np.asarray(values_NM, dtype=np.float64), np.asarray(reference_M)
    half_M = reference_M - 0.5 * np.abs(reference_M)
    return np.asarray((values < half_M).any(axis=1), dtype=np.bool_)


def squared_distances(a_NF: Array, b_PF: Array) -> Array:
    """Return mean squared differences (N, P) over features, to about 1e-15.

    Means, not sums: a lengthscale has one meaning at any number of features.
    """
    squared_NP = (a_NF**2).sum(1)[:, None] + (b_PF**2).sum(1)[None, :] - 2.0 * (a_NF @ b_PF.T)
    clipped_NP: Array = np.maximum(squared_NP, 0.0) / a_NF.shape[1]
    return clipped_NP


def _best_kernel(features_NF: Array, values_N: Array, errors_N: Array) -> Kernel:
    spread = max(float(values_N.std()), SMALLEST_ERROR)
    squared_NN = squared_distances(features_NF, features_NF)
    centred_N = values_N - values_N.mean()
    best, highest = Kernel("rbf", LENGTHSCALES[0], spread), -math.inf
    for kind, lengthscale in product(KINDS, LENGTHSCALES):
        correlation_NN = Kernel(kind, lengthscale, 1.0).covariance(squared_NN)
        for amplitude, share in product(AMPLITUDES, OWN_SHARES):
            total_NN = (amplitude * spread) ** 2 * correlation_NN + _MEAN_VARIANCE
            total_NN[np.diag_indices_from(total_NN)] += share * errors_N**2
            found = _log_likelihood(_cholesky(total_NN, amplitude * spread), centred_N)
            if found > highest + 1e-9:
                best = Kernel(kind, lengthscale, amplitude * spread, share)
                highest = found
    return best


def _log_likelihood(lower_NN: Array, values_N: Array) -> float:
    """Return equation 2.30 without its constant."""
    half_N = solve_triangular(lower_NN, values_N, lower=True, check_finite=False)
    return float(-0.5 * half_N @ half_N - np.log(np.diag(lower_NN)).sum())


def _cholesky(covariance_NN: Array, amplitude: float) -> Array:
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


def _matrix(features: ArrayLike) -> Array:
    return np.atleast_2d(np.asarray(features, dtype=np.float64))
