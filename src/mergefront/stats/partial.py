"""Estimates from part of the items: a candidate's mean over all of them, and its chances.

Items are asked in one fixed, stratified order, in nested prefixes (rungs). A candidate that has
answered a prefix is estimated with a control variate: how hard each item was for earlier
candidates. Like a mean over the prefix, the estimate is unbiased for the mean over all items,
whatever the difficulties are; but it loses most of the noise that comes of easy and hard items.

Not here: which candidate answers what (`search.race`), surfaces over candidates (`sampling.gp`).

References: control variates and the ratio of shrinkage: docs/search.md; finite population
correction: Cochran, Sampling Techniques, 3rd edition 1977, equation 2.17; racing on two objectives:
Zhang, Georgiopoulos, Anagnostopoulos, S-Race, GECCO 2013 (a sign test; here a probability).

Shapes: N units, n of them answered, K members of a front, M objectives, S draws.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from mergefront.records import Estimate
from mergefront.stats.means import cluster_labels, estimate
from mergefront.stats.pareto import non_dominated

Array = NDArray[np.float64]

_SLOPE_WEIGHT: Final = 30.0  # items' worth of belief in a slope of 1 on the difficulties
SPREAD: Final = 0.15
"""Variance of a mark about its foretold value, before anything is known of it."""
_SPREAD_WEIGHT: Final = 10.0  # items' worth of belief in it
_DRAWS: Final = 2048  # for three and four objectives: a chance of 0.1 is known to 0.007


class Difficulty:
    """Mean score of each of N units over the candidates that answered all of them.

    Only these count: candidates that left early are worse, and their answers would make the first
    items look harder than the last. `mean` is shrunken towards the mean over all units, as if two
    more candidates scored just that on every unit.
    """

    def __init__(self, n_units: int) -> None:
        self._sum_N: Array = np.zeros(n_units)
        self._squares_N: Array = np.zeros(n_units)
        self._candidates = 0

    def learn(self, scores_N: ArrayLike) -> None:
        """Take in a candidate that answered every unit."""
        scores = np.asarray(scores_N, dtype=np.float64)
        self._sum_N += scores
        self._squares_N += scores**2
        self._candidates += 1

    def mean(self) -> Array:
        """Return the units' mean scores (N,); all alike before any candidate has answered."""
        level = float(self._sum_N.mean()) / max(1, self._candidates)
        mean_N: Array = (self._sum_N + 2.0 * level) / (self._candidates + 2.0)
        return mean_N

    def spread(self) -> float:
        """Return the variance of a unit's score between candidates, mean over the units.

        Shrunken towards SPREAD as if by two more candidates, for lengths of answers may differ by
        far less than right and wrong do.
        """
        n = max(1, self._candidates)
        variance = max(0.0, float(np.mean(self._squares_N / n - (self._sum_N / n) ** 2)))
        return (variance * self._candidates + 2.0 * SPREAD) / (self._candidates + 2.0)


def partial_estimate(
    scores_n: ArrayLike,
    clusters_n: Sequence[Hashable],
    difficulty_N: ArrayLike,
    expected_spread: float = SPREAD,
) -> Estimate:
    """Estimate a candidate's mean over N units from its scores on the first n of them.

    With m the difficulties, y the scores, and b the slope of y on m, shrunken towards 1: the mean
    over N of b m, plus the mean over n of y - b m, kept in [0, 1]. `partial` is its standard error
    against the score on all N, with cluster sums of the residuals for their variance and the
    factor 1 - n / N; `se` adds what the N units leave open about others like them. That variance is
    shrunken towards `expected_spread`.

    Raises:
        ValueError: no score, more scores than units, or not one cluster for each score.
    """
    scores = np.asarray(scores_n, dtype=np.float64)
    hard = np.asarray(difficulty_N, dtype=np.float64)
    n, total = len(scores), len(hard)
    if not 0 < n <= total:
        raise ValueError(f"{n} scores of {total} units")
    plain = estimate(scores, clusters_n)
    if n == total:
        return plain
    hard_n, variance = hard[:n], float(hard.var())
    covariance = float(np.mean((hard_n - hard_n.mean()) * (scores - scores.mean())))
    weight = float(hard_n.var()) * n + _SLOPE_WEIGHT * variance
    slope = (covariance * n + _SLOPE_WEIGHT * variance) / weight if weight > 0 else 0.0
    residual_n = scores - slope * hard_n
    mean = slope * float(hard.mean()) + float(residual_n.mean())
    labels_n, _ = cluster_labels(residual_n, clusters_n)
    sums_G = np.bincount(labels_n, weights=residual_n - residual_n.mean())
    spread = float(sums_G @ sums_G) / n
    spread = (n * spread + _SPREAD_WEIGHT * expected_spread) / (n + _SPREAD_WEIGHT)
    partial = math.sqrt((1.0 - n / total) * spread / n)  # Cochran 1977, equation 2.17
    sampling = plain.se if math.isfinite(plain.se) else math.sqrt(spread / n)
    error = math.sqrt(partial**2 + sampling**2 * n / total)
    return Estimate(min(1.0, max(0.0, mean)), error, n, partial)


def chance_on_front(
    mean_M: ArrayLike, deviation_M: ArrayLike, front_KM: ArrayLike, margin: float = 0.0
) -> float:
    """Return the probability that no member of a front is as good in every objective.

    The candidate's values are independent normal ones; the front is taken as it stands, raised by
    `margin`, so that a candidate that rises above it by less does not count as being on it. Exact
    for one and two objectives; for three and four the share of 2,048 fixed draws.
    """
    means, spreads = np.asarray(mean_M, dtype=np.float64), np.asarray(deviation_M, dtype=np.float64)
    front: Array = np.atleast_2d(np.asarray(front_KM, dtype=np.float64))
    if not front.size:
        return 1.0
    front = front[non_dominated(front)] + margin
    if len(means) == 1:
        return 1.0 - float(_below(front.max(axis=0), means[0], spreads[0])[0])
    if len(means) > 2:
        draws = np.random.default_rng(_DRAWS).standard_normal((_DRAWS, len(means)))
        drawn_SM: Array = means + spreads * draws
        as_good_SK = np.logical_and.reduce(front[None, :, :] >= drawn_SM[:, None, :], axis=2)
        return 1.0 - float(np.logical_or.reduce(as_good_SK, axis=1).mean())
    front = np.unique(front, axis=0)[::-1]  # from the best first objective to the worst
    first_K = _below(front[:, 0], means[0], spreads[0])
    strips_K = first_K - np.append(first_K[1:], 0.0)  # between a member and the next
    second_K = _below(front[:, 1], means[1], spreads[1])
    return 1.0 - float(strips_K @ second_K)


def _below(limit_K: Array, mean: float, deviation: float) -> Array:
    """Return the probability that a normal value is at most `limit`; also without any spread."""
    return np.asarray(ndtr((limit_K - mean) / max(deviation, 1e-12)), dtype=np.float64)


def prefixes(n_items: int, rungs: int, least: int = 1) -> list[int]:
    """Return the rungs' sizes, each about twice the one before; the last is `n_items`.

    No rung is smaller than `least`: an engine that answers a whole batch in the time of one
    question gains nothing by smaller ones.
    """
    sizes = {max(least, math.ceil(n_items / 2**k)) for k in range(1, rungs)}
    return [*sorted(size for size in sizes if size < n_items), n_items]
