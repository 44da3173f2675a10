"""One fitted surface: posterior, draws, leave-one-out, calibration.

Equations are those of Rasmussen and Williams 2006, as in the package's docstring. Shapes: N
candidates, F features, P points.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dtrtri
from threadpoolctl import ThreadpoolController

from mergefront.records import Calibration
from mergefront.sampling.gp.fitting import fitted_kernel, milestone, surprised
from mergefront.sampling.gp.kernel import MEAN_VARIANCE, Kernel, cholesky, matrix, usable_errors
from mergefront.sampling.problem import Array

_SURPRISED = 1.5  # mean square from which the kernel is fitted again
_MOST = 2.0  # mean square that widened errors may still mend


class GaussianProcess:
    """A fitted surface; see `fit`. N candidates with F features each."""

    def __init__(
        self,
        kernel: Kernel,
        features_NF: Array,
        values_N: Array,
        errors_N: Array,
        partial_N: Array | None = None,
    ):
        """Condition a process with a given kernel on scores and their standard errors."""
        self.kernel = kernel
        self._features_NF, self._errors_N = features_NF, errors_N
        self._centre = float(values_N.mean())
        self._values_N = values_N - self._centre
        total_NN = kernel.lower_covariance(features_NF)
        total_NN += MEAN_VARIANCE  # the constant's prior, integrated out (2.40)
        partial_N = np.zeros_like(errors_N) if partial_N is None else partial_N
        self._noise_N = kernel.noise(errors_N, partial_N)
        total_NN[np.diag_indices_from(total_NN)] += self._noise_N
        self._lower_NN = cholesky(total_NN, kernel.amplitude)
        upper_NN = self._lower_NN.T  # as LAPACK stores it: not copied
        self._weights_N = cho_solve((upper_NN, False), self._values_N, check_finite=False)

    @cached_property
    def own_mean(self) -> Array:
        """The posterior mean at the candidates themselves (N,): score minus noise times weight."""
        own_N: Array = self._centre + self._values_N - self._noise_N * self._weights_N
        return own_N

    def mean(self, features_PF: ArrayLike) -> Array:
        """Return the posterior mean at P points, without noise (equation 2.23)."""
        cross_PN = self._prior(matrix(features_PF), self._features_NF)
        mean_P: Array = self._centre + cross_PN @ self._weights_N
        return mean_P

    def posterior(self, features_PF: ArrayLike) -> tuple[Array, Array]:
        """Return mean (P,) and covariance (P, P) at P points, without noise (2.23, 2.24)."""
        points_PF = matrix(features_PF)
        cross_NP = self._prior(self._features_NF, points_PF)
        half_NP = solve_triangular(self._lower_NN, cross_NP, lower=True)
        covariance_PP = self._prior(points_PF, points_PF) - half_NP.T @ half_NP
        mean_P: Array = self._centre + cross_NP.T @ self._weights_N
        return mean_P, 0.5 * (covariance_PP + covariance_PP.T)

    def deviation(self, features_PF: ArrayLike) -> Array:
        """Return the posterior standard deviation at P points (P,), without noise."""
        points_PF = matrix(features_PF)
        cross_NP = self._prior(self._features_NF, points_PF)
        half_NP = solve_triangular(self._lower_NN, cross_NP, lower=True)
        prior = self.kernel.amplitude**2 + MEAN_VARIANCE
        deviation_P: Array = np.sqrt(np.maximum(prior - (half_NP**2).sum(axis=0), 0.0))
        return deviation_P

    def draw(self, features_PF: ArrayLike, generator: np.random.Generator) -> Array:
        """Return one surface that the scores allow, at P points: a joint posterior draw."""
        mean_P, covariance_PP = self.posterior(features_PF)
        lower_PP = cholesky(covariance_PP, self.kernel.amplitude)
        return mean_P + lower_PP @ generator.standard_normal(len(mean_P))

    @cached_property
    def leave_one_out(self) -> tuple[Array, Array]:
        """Residual of each score from the prediction of all others, and its deviation (5.12).

        The deviation includes the noise of the score itself. The kernel is not fitted again.
        """
        inverse_NN, _ = dtrtri(self._lower_NN, lower=1)  # of the factor: a sixth of the work
        # Equation 5.12: residual [K^-1 y]_i / [K^-1]_ii, variance 1 / [K^-1]_ii.
        variance_N = 1.0 / (inverse_NN**2).sum(axis=0)
        return self._weights_N * variance_N, np.sqrt(variance_N)

    def calibration(self) -> Calibration:
        """Return how well each candidate is foretold from the others."""
        residual_N, deviation_N = self.leave_one_out
        standard_N = residual_N / deviation_N
        n, mean_square = len(standard_N), float((standard_N**2).mean())
        within = float((np.abs(standard_N) <= 1.959964).mean())
        excess = float((residual_N**2).mean() / (self._errors_N**2).mean())
        misfit = mean_square > max(_MOST, 1.0 + 3.0 * math.sqrt(2.0 / n))
        return Calibration(n, mean_square, within, excess, misfit)

    def _prior(self, a_NF: Array, b_PF: Array) -> Array:
        covariance_NP = self.kernel.covariance(a_NF, b_PF)
        covariance_NP += MEAN_VARIANCE
        return covariance_NP


def fit(
    features_NF: ArrayLike,
    values_N: ArrayLike,
    errors_N: ArrayLike,
    partial_N: ArrayLike | None = None,
) -> GaussianProcess:
    """Return the process whose kernel fits best, by marginal likelihood and a prior on its scales.

    `features_NF` are N >= 1 vectors of F numbers of comparable scale, `values_N` finite scores,
    `errors_N` their standard errors; errors that are not finite count as `kernel.DEFAULT_ERROR`,
    smaller ones as `SMALLEST_ERROR`. `partial_N` is the part of each error that comes of unanswered
    items (`records.Estimate.partial`); without it there is none. The process is conditioned on all;
    its kernel is that of the candidates up to the last milestone (`fitting.milestone`), unless
    those after it came as a surprise: then of all up to `fitting.surprised`.

    Raises:
        ValueError: no candidates, lengths that differ, or a number that is not finite.
    """
    one_thread()
    features, values = matrix(features_NF), np.asarray(values_N, dtype=np.float64)
    errors = np.asarray(errors_N, dtype=np.float64)
    if not len(values) or not len(features) == len(values) == len(errors):
        raise ValueError(
            f"{len(features)} points, {len(values)} values and {len(errors)} errors; "
            "expected one of each for every candidate, and at least one candidate"
        )
    if not (np.isfinite(features).all() and np.isfinite(values).all()):
        raise ValueError("a feature or a value is not finite; leave failed candidates out")
    errors = usable_errors(errors)
    partial = np.zeros_like(errors) if partial_N is None else np.asarray(partial_N, dtype=float)
    data = features, values, errors, partial
    upto, latest = milestone(len(values)), surprised(len(values))
    process = GaussianProcess(fitted_kernel(*(array[:upto] for array in data)), *data)
    if upto < latest and process.calibration().mean_square > _SURPRISED:
        process = GaussianProcess(fitted_kernel(*(array[:latest] for array in data)), *data)
    return process


@lru_cache(maxsize=1)
def one_thread() -> None:
    """Hold the OpenBLAS that numpy and scipy bring to one thread, for the rest of the process.

    The matrices are small. Threads that share one matrix wait for each other actively, beside an
    engine that needs the cores. And the last digits of a factorisation depend on the number of
    threads, so that a tie between two points could fall differently where a run is continued on a
    machine with more cores.

    torch's own is left alone, and so is any other linear algebra library: another build of numpy
    may use one that torch shares.
    """
    for library in ThreadpoolController().select(internal_api="openblas").lib_controllers:
        if "torch" not in str(library.filepath):
            library.set_num_threads(1)
