"""Fitting a kernel: the highest marginal likelihood, held back by a prior on its scales.

A lengthscale for each feature, since a few knobs move a model's scores and most hardly do (on the
zoo the error of what is foretold falls by a quarter against one for all, docs/lab.md). The prior
has a common scale, its log about log 0.5 with deviation 1, and each log lengthscale about that with
deviation 0.7: with few candidates, or knobs that count alike, all scales are alike.

The search is deterministic: one start, gradients, no random restarts. It is repeated at milestones
only, a seventh more candidates each; between them the kernel stays, unless a candidate comes as a
surprise to it (`process.fit`). What is found depends on the candidates alone, so that a resumed run
finds the same.

Reference: Rasmussen and Williams 2006, equations 5.8 and 5.9.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

import numpy as np
from scipy.linalg import LinAlgError, cho_factor
from scipy.linalg.lapack import dpotri

from mergefront.sampling.gp.kernel import (
    MEAN_VARIANCE,
    SMALLEST_ERROR,
    Kernel,
    noise_parts,
    squared_distances,
)
from mergefront.sampling.problem import Array

FIT_ON: Final = 200
"""Candidates that choose a kernel at most, evenly spaced over the run."""

_CENTRE, _COMMON, _APART = math.log(0.5), 1.0, 0.7  # of the prior of log lengthscales
_STEADY = 16  # up to so many candidates every one is a milestone
_GROWTH = 7  # then a seventh more each
_ITERATIONS = 30
_SCALE_BOUNDS = (math.log(0.03), math.log(60.0))
_AMPLITUDE_BOUNDS = (math.log(0.1), math.log(10.0))  # in standard deviations of the scores
_SHARE_BOUNDS = (-1.0, 3.0)  # logit of the share of noise: 0.27 to 0.95; less is too sure of itself
_REMEMBERED = 16

_remembered: OrderedDict[tuple[object, ...], Kernel] = OrderedDict()


def milestone(n: int) -> int:
    """Return the number of candidates, at most n, at which the kernel is fitted."""
    reached = min(n, _STEADY)
    while reached + -(-reached // _GROWTH) <= n:
        reached += -(-reached // _GROWTH)
    return reached


def surprised(n: int) -> int:
    """Return the number of candidates, at most n, at which a kernel that failed is fitted anew.

    All, up to 100 of them; then up to a fiftieth fewer, so that not every proposal fits one.
    """
    return n - n % max(1, n // 50)


def fitted_kernel(features_NF: Array, values_N: Array, errors_N: Array, partial_N: Array) -> Kernel:
    """Return the kernel of N candidates, in the order in which they were told."""
    n = len(values_N)
    rows = np.arange(n) if n <= FIT_ON else np.linspace(0, n - 1, FIT_ON).round().astype(np.intp)
    data = features_NF[rows], values_N[rows], errors_N[rows], partial_N[rows]
    key = tuple((array.shape, array.tobytes()) for array in data)
    if key not in _remembered:
        _remembered[key] = _search(*data)
        while len(_remembered) > _REMEMBERED:
            _remembered.popitem(last=False)
    return _remembered[key]


def _search(features_NF: Array, values_N: Array, errors_N: Array, partial_N: Array) -> Kernel:
    from scipy.optimize import minimize  # here: verbs that only read a run start faster

    spread = max(float(values_N.std()), SMALLEST_ERROR)
    n_features = features_NF.shape[1]
    start = np.array([*np.full(n_features, _CENTRE), 0.0, 0.0])
    bounds = [*[_SCALE_BOUNDS] * n_features, _AMPLITUDE_BOUNDS, _SHARE_BOUNDS]
    noise = noise_parts(errors_N, partial_N)
    optimum = minimize(
        objective,
        start,
        args=(features_NF, values_N - values_N.mean(), noise, spread),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": _ITERATIONS},
    )
    scales, (amplitude, share) = np.exp(optimum.x[:-2]), optimum.x[-2:]
    return Kernel(tuple(scales.tolist()), math.exp(amplitude) * spread, _logistic(share))


def objective(
    theta: Array, features_NF: Array, centred_N: Array, noise: tuple[Array, Array], spread: float
) -> tuple[float, Array]:
    """Return minus the log of likelihood times prior, without constants, and its gradient.

    `theta`: F log lengthscales, log amplitude in units of `spread`, logit of the own share.
    `noise`: what `noise_parts` returns.
    """
    scales_F, (log_amplitude, logit) = np.exp(theta[:-2]), theta[-2:]
    amplitude, share = math.exp(log_amplitude) * spread, _logistic(logit)
    scaled_NF = features_NF / scales_F
    # Matern 5/2 (equation 4.17), its factor exp(-r) kept for the gradient.
    root_NN = np.sqrt(5.0 * squared_distances(scaled_NF, scaled_NF))
    fading_NN = amplitude**2 * np.exp(-root_NN)
    signal_NN = (1.0 + root_NN + root_NN**2 / 3.0) * fading_NN
    total_NN = signal_NN + MEAN_VARIANCE
    total_NN[np.diag_indices_from(total_NN)] += noise[0] + share * noise[1] + 1e-10 * amplitude**2
    try:
        factor = cho_factor(total_NN, lower=True, check_finite=False)
    except LinAlgError:
        return 1e10, np.zeros_like(theta)
    inverse_NN, _ = dpotri(factor[0], lower=1)  # its lower triangle, a third of the work
    inverse_NN = np.tril(inverse_NN) + np.tril(inverse_NN, -1).T
    weights_N = inverse_NN @ centred_N
    away_F = theta[:-2] - _CENTRE
    held_F = _held_back(away_F)
    # Minus the log marginal likelihood (5.8, 2.30), plus the priors' squares.
    value = 0.5 * float(centred_N @ weights_N) + float(np.log(np.diag(factor[0])).sum())
    value += 0.5 * float(away_F @ held_F) + 0.5 * float(log_amplitude**2)
    # Equation 5.9: half the trace of (K^-1 - alpha alpha') dK / d theta, for each theta.
    outer_NN = inverse_NN - np.outer(weights_N, weights_N)
    pull_NN = outer_NN * (5.0 / 6.0) * (1.0 + root_NN) * fading_NN / features_NF.shape[1]
    by_scale_F = 2.0 * (pull_NN.sum(axis=1) @ scaled_NF**2)
    by_scale_F -= 2.0 * (scaled_NF * (pull_NN @ scaled_NF)).sum(axis=0)
    by_amplitude = float((outer_NN * signal_NN).sum()) + float(log_amplitude)
    by_share = 0.5 * share * (1.0 - share) * float(np.diag(outer_NN) @ noise[1])
    return value, np.array([*(by_scale_F + held_F), by_amplitude, by_share])


def _held_back(away_F: Array) -> Array:
    """Return deviations from the centre times the precision of the prior.

    Its covariance is _APART^2 I + _COMMON^2 11'; the inverse is by Sherman and Morrison.
    """
    together = _COMMON**2 / (_APART**2 + len(away_F) * _COMMON**2)
    held_F: Array = (away_F - together * away_F.sum()) / _APART**2
    return held_F


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))
