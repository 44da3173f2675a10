"""Error bars against closed forms, brute force and simulated coverage (fixed seeds)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mergefront.records import Estimate
from mergefront.stats import (
    Interval,
    estimate,
    hypervolume_difference,
    hypervolume_interval,
    normal_interval,
    paired_difference,
    wilson,
)
from mergefront.stats.pareto import hypervolume

SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=12)


@settings(deadline=None)
@given(SCORES)
def test_single_items_give_the_usual_standard_error(scores: list[float]) -> None:
    found = estimate(scores, range(len(scores)))
    assert found.mean == pytest.approx(np.mean(scores))
    assert found.se == pytest.approx(np.std(scores, ddof=1) / math.sqrt(len(scores)))
    assert found.n == len(scores)


@settings(deadline=None)
@given(SCORES, st.integers(2, 4))
def test_copied_items_add_no_information(scores: list[float], copies: int) -> None:
    found = estimate(scores * copies, list(range(len(scores))) * copies)
    once = estimate(scores, range(len(scores)))
    assert found.se == pytest.approx(once.se, abs=1e-12)
    assert found.n == copies * once.n


def test_standard_error_by_hand() -> None:
    found = estimate([1, 1, 0, 1], ["a", "a", "b", "b"])
    residuals = {"a": 0.25 + 0.25, "b": -0.75 + 0.25}
    expected = math.sqrt(2 / 1 * sum(r * r for r in residuals.values())) / 4
    assert found.se == pytest.approx(expected)
    assert math.isnan(estimate([1.0, 0.0], ["a", "a"]).se)
    with pytest.raises(ValueError, match="2 scores, 1 clusters"):
        estimate([1.0, 0.0], ["a"])
    with pytest.raises(ValueError, match="at least one number"):
        estimate([], [])


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 40))
def test_wilson_without_clusters_is_scipys(right: int, wrong: int) -> None:
    n = right + wrong
    p = right / n
    low, high = wilson(Estimate(p, math.sqrt(p * (1 - p) / n), n))
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_a_normal_interval_is_of_the_error_alone_and_stays_in_bounds() -> None:
    low, high = normal_interval(Estimate(0.5, 0.01, 100))
    assert (low, high) == pytest.approx(stats.norm.interval(0.95, 0.5, 0.01))
    assert normal_interval(Estimate(0.99, 0.01, 100))[1] == 1.0
    assert normal_interval(Estimate(0.0, 0.0, 100)) == (0.0, 0.0)
    assert normal_interval(Estimate(0.5, math.nan, 9)) == (0.0, 1.0)


def test_wilson_is_wider_with_clusters_and_sensible_at_the_ends() -> None:
    plain, clustered = wilson(Estimate(0.5, 0.05, 100)), wilson(Estimate(0.5, 0.1, 100))
    assert clustered[0] < plain[0] < plain[1] < clustered[1]
    assert wilson(Estimate(0.5, 0.1, 100)) == pytest.approx(wilson(Estimate(0.5, 0.1, 25)))
    alike = wilson(Estimate(1.0, 0.0, 100), clusters=10)  # ten pictures with ten questions each
    assert alike == pytest.approx(wilson(Estimate(1.0, 0.0, 10)))
    assert wilson(Estimate(0.5, math.nan, 9), clusters=1) == wilson(Estimate(0.5, math.nan, 1))
    low, high = wilson(Estimate(1.0, 0.0, 100))
    assert high == 1.0
    assert 0.95 < low < 0.97


@settings(deadline=None)
@given(SCORES)
def test_paired_difference_of_single_items_is_the_paired_t_interval(a: list[float]) -> None:
    rng = np.random.default_rng(len(a))
    b = rng.integers(0, 2, len(a)).astype(float)
    found = paired_difference(a, b, range(len(a)))
    assert found.mean == pytest.approx(np.mean(np.array(a) - b))
    if found.se > 0:
        expected = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert found.low == pytest.approx(max(-1, expected.low))
        assert found.high == pytest.approx(min(1, expected.high))
    mirrored = paired_difference(b, a, range(len(a)))
    assert (mirrored.mean, mirrored.low, mirrored.high) == pytest.approx(
        (-found.mean, -found.high, -found.low)
    )


def test_paired_difference_at_the_edges() -> None:
    assert paired_difference([1, 0], [1, 0], "ab") == Interval(0.0, 0.0, 0.0, 0.0)
    one_cluster = paired_difference([1, 0], [0, 0], "aa")
    assert (one_cluster.mean, one_cluster.low, one_cluster.high) == (0.5, -1.0, 1.0)
    with pytest.raises(ValueError, match="paired scores of 2 and 3 items"):
        paired_difference([1, 0], [1, 0, 0], "ab")


def test_hypervolume_interval_of_one_member_and_one_objective_is_a_mean() -> None:
    scores = np.random.default_rng(0).integers(0, 2, 300).astype(float)
    found = hypervolume_interval([scores], [range(300)], [0.0])
    assert found.mean == pytest.approx(scores.mean(), abs=0.003)
    assert found.se == pytest.approx(estimate(scores, range(300)).se, rel=0.05)
    assert found.low < scores.mean() < found.high


def members(seed: int, means: np.ndarray, n: int, shared: float = 0.7) -> list[np.ndarray]:
    """Scores of K members on M objectives; `shared`: how alike members are on one item."""
    rng = np.random.default_rng(seed)
    item, own = rng.normal(size=(n, means.shape[1])), rng.normal(size=(*means.shape, n))
    latent = np.sqrt(shared) * item.T + np.sqrt(1 - shared) * own
    return list(np.swapaxes(latent < stats.norm.ppf(means)[..., None], 0, 1).astype(float))


FRONT = np.array([[0.3, 0.92], [0.5, 0.9], [0.6, 0.87], [0.66, 0.8]])
OTHER = np.array([[0.3, 0.92], [0.45, 0.88], [0.55, 0.82]])
REFERENCE = [0.25, 0.7]


def test_an_interval_of_a_hypervolume_covers_the_truth() -> None:
    truth, n, covered = hypervolume(FRONT, REFERENCE), 200, 0
    clusters = [[(m, i // 2) for i in range(n)] for m in range(2)]
    for seed in range(200):
        scores = members(seed, FRONT, n)
        found = hypervolume_interval(scores, clusters, REFERENCE, n_boot=300, seed=seed)
        covered += found.low <= truth <= found.high
    assert 182 <= covered <= 198


def test_the_luck_of_the_best_of_many_equals_is_corrected() -> None:
    equals = np.tile([0.5, 0.85], (8, 1))
    truth, n = hypervolume(equals, REFERENCE), 200
    clusters = [[(m, i) for i in range(n)] for m in range(2)]
    raw, corrected = [], []
    for seed in range(60):
        scores = members(seed, equals, n, shared=0.3)
        corrected.append(
            hypervolume_interval(scores, clusters, REFERENCE, n_boot=300, seed=seed).mean
        )
        raw.append(hypervolume(np.stack([s.mean(axis=1) for s in scores], axis=1), REFERENCE))
    assert np.mean(raw) > 1.2 * truth
    assert np.mean(corrected) - truth < 0.7 * (np.mean(raw) - truth)


def test_a_difference_of_hypervolumes_is_paired() -> None:
    scores = members(1, np.vstack([FRONT, OTHER]), 800)
    ours, theirs = [s[:4] for s in scores], [s[4:] for s in scores]
    clusters = [[(m, i) for i in range(800)] for m in range(2)]
    found = hypervolume_difference(ours, theirs, clusters, REFERENCE)
    a = hypervolume_interval(ours, clusters, REFERENCE)
    b = hypervolume_interval(theirs, clusters, REFERENCE)
    assert found.mean == pytest.approx(a.mean - b.mean, abs=1e-9)
    assert found.se < math.hypot(a.se, b.se)
    same = hypervolume_difference(ours, ours, clusters, REFERENCE)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_resampling_is_repeatable_and_the_sweep_agrees_with_the_exact_volume() -> None:
    scores = members(2, FRONT, 60)
    clusters = [[(m, i) for i in range(60)] for m in range(2)]
    first = hypervolume_interval(scores, clusters, REFERENCE, seed=3)
    assert first == hypervolume_interval(scores, clusters, REFERENCE, seed=3)
    assert first != hypervolume_interval(scores, clusters, REFERENCE, seed=4)
    # a third objective that everybody solves has no noise and unit height: same volume, other code
    solved = np.ones((4, 60))
    third = hypervolume_interval(
        [*scores, solved], [*clusters, clusters[0]], [*REFERENCE, 0.0], n_boot=50, seed=3
    )
    again = hypervolume_interval(scores, clusters, REFERENCE, n_boot=50, seed=3)
    assert third.mean == pytest.approx(again.mean, abs=1e-9)
    assert (third.low, third.high) == pytest.approx((again.low, again.high), abs=1e-9)


def test_shapes_that_do_not_fit_a_hypervolume() -> None:
    with pytest.raises(ValueError, match="1 objectives, clusters for 2"):
        hypervolume_interval([np.ones((2, 3))], ["abc", "abc"], [0.0])
    with pytest.raises(ValueError, match="3 items, 2 clusters"):
        hypervolume_interval([np.ones((2, 3))], ["ab"], [0.0])
