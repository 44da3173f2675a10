"""p-values, Holm, the bootstrap and sample sizes against SciPy, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mergefront.stats import (
    compare,
    design_effect,
    detectable,
    discordance,
    holm,
    items_needed,
    mcnemar,
    paired_bootstrap,
    paired_difference,
    paired_p,
)

BITS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)
CHANCES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@settings(deadline=None)
@given(BITS)
def test_mcnemar_is_a_binomial_test_of_the_disagreements(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    ours, theirs = int((a > b).sum()), int((b > a).sum())
    expected = stats.binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    assert mcnemar(a, b) == pytest.approx(expected)
    assert mcnemar(b, a) == mcnemar(a, b)
    agreed = np.ones(5)  # items on which both agree say nothing
    assert mcnemar(np.r_[a, agreed], np.r_[b, agreed]) == mcnemar(a, b)


def test_mcnemar_refuses_scores_that_are_no_verdicts() -> None:
    with pytest.raises(ValueError, match="scores of 0 and 1; use paired_p"):
        mcnemar([0.5, 1], [0, 1])
    with pytest.raises(ValueError, match="paired scores of 1 and 2 items"):
        mcnemar([1], [0, 1])


@given(CHANCES)
def test_holm_is_the_closed_test_of_bonferronis(chances: list[float]) -> None:
    n = len(chances)
    subsets = [s for size in range(1, n + 1) for s in itertools.combinations(range(n), size)]
    expected = [
        max(min(1.0, len(s) * min(chances[j] for j in s)) for s in subsets if i in s)
        for i in range(n)
    ]
    assert holm(chances) == pytest.approx(expected)


def test_holm_by_hand_and_its_range() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected a number from 0 to 1"):
            holm([0.5, bad])


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_the_clustered_p_is_a_paired_t_test_of_single_items(seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 2, (2, 40)).astype(float)
    found = paired_p(a, b, range(40))
    assert found == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_p(b, a, range(40)) == pytest.approx(found)
    twice = paired_p(np.r_[a, a], np.r_[b, b], [*range(40), *range(40)])
    assert twice == pytest.approx(found)  # copies of items in their clusters prove nothing new


@given(st.integers(0, 10_000), st.integers(6, 30))
def test_p_and_interval_agree(seed: int, n_clusters: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [index % n_clusters for index in range(60)]
    a, b = rng.random((2, 60))
    b = np.clip(b - rng.uniform(-0.4, 0.4), 0, 1)
    interval = paired_difference(a, b, labels)
    assert (paired_p(a, b, labels) < 0.05) == (not interval.low <= 0 <= interval.high)


def test_few_clusters_that_all_agree_prove_little() -> None:
    assert paired_p([1, 1], [0, 0], "ab") == 0.5
    assert paired_p([1, 1], [0, 0], "aa") == 1.0
    assert paired_p([1] * 8, [0] * 8, "abcdefgh") == 2.0**-7
    assert paired_p([1, 0], [1, 0], "ab") == 1.0


def test_the_test_is_chosen_by_what_is_valid() -> None:
    a, b = [1, 1, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0]
    single = compare(a, b, range(6))
    assert (single.test, single.p) == ("mcnemar", mcnemar(a, b))
    assert single.discordance == discordance(a, b) == pytest.approx(5 / 6)
    assert single.difference == paired_difference(a, b, range(6))
    grouped = compare(a, b, "aabbcc")
    assert (grouped.test, grouped.p) == ("clustered t", paired_p(a, b, "aabbcc"))
    assert compare([0.5, *a[1:]], b, range(6)).test == "clustered t"


def test_the_bootstrap_is_repeatable_and_agrees_with_the_robust_error() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(150), rng.integers(1, 5, 150))
    own = rng.normal(size=150)[labels]
    a = (own + rng.normal(size=len(labels)) > 0).astype(float)
    b = (own + rng.normal(size=len(labels)) > 0.3).astype(float)
    found = paired_bootstrap(a, b, labels.tolist(), seed=1, resamples=6000)
    robust = paired_difference(a, b, labels.tolist())
    assert found.mean == robust.mean == pytest.approx((a - b).mean())
    assert found.se == pytest.approx(robust.se, rel=0.05)
    assert (found.low, found.high) == pytest.approx((robust.low, robust.high), abs=0.3 * robust.se)
    again = paired_bootstrap(a, b, labels.tolist(), seed=1, resamples=6000)
    assert found == again
    assert found != paired_bootstrap(a, b, labels.tolist(), seed=2, resamples=6000)


def test_the_bootstrap_of_three_clusters_by_enumeration() -> None:
    a, b, labels = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], "aabc"
    difference = {"a": (1.0, 2), "b": (1.0, 1), "c": (0.0, 1)}  # sum, items
    draws = [
        sum(difference[c][0] for c in drawn) / sum(difference[c][1] for c in drawn)
        for drawn in itertools.product("abc", repeat=3)
    ]
    found = paired_bootstrap(a, b, labels, seed=0, resamples=20_000)
    assert found.se == pytest.approx(np.std(draws), rel=0.02)
    low, high = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")
    assert (found.low, found.high) == pytest.approx((1.0 - high, min(1.0, 1.0 - low)))


def test_the_bootstrap_at_the_edges() -> None:
    one = paired_bootstrap([1, 0], [0, 0], "aa", seed=0)
    assert (one.mean, one.low, one.high) == (0.5, -1.0, 1.0)
    with pytest.raises(ValueError, match="1 resamples; at least 2"):
        paired_bootstrap([1, 0], [0, 0], "ab", seed=0, resamples=1)


@pytest.mark.parametrize(
    ("difference", "share", "published"),
    [(0.02, 0.1, 1960), (0.02, 0.2, 3920), (0.03, 0.1, 872), (0.03, 0.2, 1743)],
)
def test_sample_sizes_agree_with_the_usual_approximation(
    difference: float, share: float, published: int
) -> None:
    assert items_needed(difference, share) == pytest.approx(published, rel=0.003)
    assert items_needed(-difference, share) == items_needed(difference, share)


@given(st.floats(0.005, 0.3), st.floats(0.3, 1.0), st.floats(0.55, 0.95))
def test_what_is_detectable_is_the_inverse_of_what_is_needed(
    difference: float, share: float, power: float
) -> None:
    n = items_needed(difference, share, power=power)
    assert detectable(n, share, power=power) <= difference * (1 + 1e-9)
    if n > 1:
        assert detectable(n - 1, share, power=power) > difference * (1 - 1e-9)


def test_a_study_of_the_size_needed_has_the_power_asked_for() -> None:
    gap, share = 0.05, 0.2
    n = items_needed(gap, share)
    rng = np.random.default_rng(0)
    up, down = (share + gap) / 2, (share - gap) / 2
    counts = rng.multinomial(n, [up, down, 1 - share], size=4000)
    won, lost = counts[:, 0], counts[:, 1]
    mean = (won - lost) / n
    error = np.sqrt(((won + lost) / n - mean**2) / (n - 1))
    found = float(np.mean(2 * stats.t.sf(np.abs(mean / error), n - 1) < 0.05))
    assert found == pytest.approx(0.8, abs=0.02)


def test_impossible_sample_sizes() -> None:
    with pytest.raises(ValueError, match="cannot differ by more than the share of items"):
        items_needed(0.2, 0.1)
    with pytest.raises(ValueError, match="0 < difference"):
        items_needed(0.0, 0.1)
    with pytest.raises(ValueError, match=r"power 1\.0"):
        items_needed(0.1, 0.2, power=1.0)
    with pytest.raises(ValueError, match="expected n >= 1"):
        detectable(0, 0.1)
    assert detectable(10, 0.1) == math.inf  # ten items cannot show what one in ten could change


def test_the_design_effect_of_clusters() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, (2, 500)).astype(float)
    assert design_effect(a, b, range(500)) == pytest.approx(1.0)
    copies = design_effect(np.tile(a, 3), np.tile(b, 3), list(range(500)) * 3)
    assert copies == pytest.approx(3.0, rel=0.01)
    assert math.isnan(design_effect([1, 1], [1, 1], "ab"))
