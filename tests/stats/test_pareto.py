"""Fronts against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergefront.stats.pareto import (
    covering,
    hypervolume,
    knee,
    non_dominated,
    uncrowded_improvement,
)

GRID = st.integers(0, 4).map(lambda k: k / 4)  # a coarse grid makes ties and duplicates


def sets(n_objectives: int, most: int = 8) -> st.SearchStrategy[list[tuple[float, ...]]]:
    return st.lists(st.tuples(*[GRID] * n_objectives), min_size=1, max_size=most)


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and a != b


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(sets))
def test_non_dominated_against_every_pair(points: list[tuple[float, ...]]) -> None:
    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert non_dominated(points).tolist() == expected


def test_duplicates_stay_and_nan_goes() -> None:
    assert non_dominated([(1, 0), (1, 0), (0, 1), (0, 0.5)]).tolist() == [0, 1, 2]
    assert non_dominated([(np.nan, 9), (0, 1)]).tolist() == [1]
    assert non_dominated([]).tolist() == []


def by_inclusion_exclusion(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Sum over subsets of the signed volume of their common box."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            sides = np.maximum(np.min(subset, axis=0) - reference, 0.0)
            total -= (-1) ** size * float(np.prod(sides))
    return total


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(lambda m: st.tuples(sets(m, most=7), st.tuples(*[GRID] * m))))
def test_hypervolume_against_inclusion_exclusion(
    drawn: tuple[list[tuple[float, ...]], tuple[float, ...]],
) -> None:
    points, reference = drawn
    expected = by_inclusion_exclusion(points, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(sets(2), st.permutations(range(8)))
def test_hypervolume_ignores_order_and_dominated_points(
    points: list[tuple[float, ...]], order: list[int]
) -> None:
    shuffled = [points[i] for i in order if i < len(points)]
    front = [points[i] for i in non_dominated(points)]
    value = hypervolume(points, (0.1, 0.2))
    assert hypervolume(shuffled, (0.1, 0.2)) == pytest.approx(value, abs=1e-12)
    assert hypervolume(front, (0.1, 0.2)) == pytest.approx(value, abs=1e-12)


def test_hypervolume_of_nothing_and_of_what_does_not_fit() -> None:
    assert hypervolume([], (0.0, 0.0)) == 0.0
    assert hypervolume([(0.5, 0.1)], (0.0, 0.2)) == 0.0
    with pytest.raises(ValueError, match="points of 2 objectives, reference of 3"):
        hypervolume([(1, 1)], (0, 0, 0))
    with pytest.raises(ValueError, match="hypervolume of 5 objectives"):
        hypervolume([(1,) * 5], (0,) * 5)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_uncrowded_improvement_is_volume_added_or_distance_to_adding(
    front: list[tuple[float, float]], point: tuple[float, float]
) -> None:
    reference = np.full(2, 0.25)
    added = hypervolume([*front, point], reference) - hypervolume(front, reference)
    front_K2 = np.array(front).reshape(-1, 2)
    worth = uncrowded_improvement(np.array(point), front_K2, reference)
    if worth > 0:
        assert worth == pytest.approx(added, abs=1e-9)
    else:
        assert added == pytest.approx(0, abs=1e-9)
        if worth < 0:  # moving up by the distance in both objectives must be enough to add
            moved = np.array(point) - worth + 1e-6
            assert uncrowded_improvement(moved, front_K2, reference) > 0


@pytest.mark.slow
@pytest.mark.parametrize("n_objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("n_members", [0, 1, 5])
def test_uncrowded_improvement_in_one_to_four_objectives(n_objectives: int, n_members: int) -> None:
    """On a coarse grid, where points share coordinates; the distance is the shortest way to add."""
    random, reference = np.random.default_rng(0), np.full(n_objectives, 0.25)
    for _ in range(60):
        *front, point = random.integers(0, 9, (n_members + 1, n_objectives)) / 8
        front_KM = np.array(front).reshape(-1, n_objectives)
        added = hypervolume([*front, point], reference) - hypervolume(front_KM, reference)
        worth = uncrowded_improvement(point, front_KM, reference)
        assert max(worth, 0.0) == pytest.approx(added, abs=1e-9)
        if worth < 0:
            ways = np.abs(random.standard_normal((200, n_objectives)))
            ways *= (-worth - 1e-9) / np.linalg.norm(ways, axis=1, keepdims=True)
            assert all(uncrowded_improvement(point + way, front_KM, reference) <= 0 for way in ways)


@settings(deadline=None)
@given(sets(3), st.permutations(range(8)))
def test_what_adds_nothing_changes_no_bit_of_a_hypervolume(
    points: list[tuple[float, ...]], order: list[int]
) -> None:
    """`covering` stops at the first point that adds nothing."""
    reference = (0.1, 0.2, 0.3)
    shuffled = [points[i] for i in order if i < len(points)]
    front = [points[i] for i in non_dominated(points)]
    assert hypervolume(shuffled, reference) == hypervolume(front, reference)


@settings(deadline=None)
@given(sets(2))
def test_the_knee_is_farthest_from_the_line_through_the_extremes(
    points: list[tuple[float, ...]],
) -> None:
    chosen = knee(points)
    front = [points[i] for i in non_dominated(points)]
    assert points[chosen] in front
    low, high = np.min(front, axis=0), np.max(front, axis=0)
    if (high > low).all():
        scaled = (np.array(front) - low) / (high - low)
        distance = (scaled.sum(axis=1) - 1) / np.sqrt(2)  # to the line from (0, 1) to (1, 0)
        mine = distance[front.index(points[chosen])]
        assert mine == pytest.approx(distance.max(), abs=1e-9)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.3, 0.4)], 0),
        ([(0.3, 0.4), (0.3, 0.4)], 0),
        ([(0.0, 1.0), (0.9, 0.9), (1.0, 0.0)], 1),
        ([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)], 1),  # all on the line: the balanced one
        ([(0.0, 1.0), (1.0, 0.0)], 0),  # no balanced one: the first
        ([(0.0, 0.1), (0.2, 0.1), (0.1, 0.1)], 1),  # one objective does not vary
        ([(0, 0, 1), (0, 1, 0), (1, 0, 0), (0.6, 0.6, 0.6)], 3),
    ],
)
def test_knees(points: list[tuple[float, ...]], expected: int) -> None:
    assert knee(points) == expected


def test_the_knee_of_nothing() -> None:
    with pytest.raises(ValueError, match="the knee of no points"):
        knee([])


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 1000))
def test_a_greedy_choice_covers_most_of_what_the_best_choice_does(
    n: int, k: int, seed: int
) -> None:
    points = np.random.default_rng(seed).random((n, 2))
    chosen = covering(points, [0.2, 0.1], k)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= k
    best = max(
        hypervolume(points[list(some)], [0.2, 0.1])
        for some in itertools.combinations(range(n), min(k, n))
    )
    assert hypervolume(points[chosen], [0.2, 0.1]) >= (1 - 1 / np.e) * best - 1e-12
    every = covering(points, [0.2, 0.1], n)
    assert hypervolume(points[every], [0.2, 0.1]) == pytest.approx(hypervolume(points, [0.2, 0.1]))
