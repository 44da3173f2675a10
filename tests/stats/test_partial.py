"""The race: estimates from part of the items, chances to be on a front, and who leaves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mergefront.config import RacingConfig
from mergefront.records import Estimate, Evaluation, Item, Raced
from mergefront.runs.belief import fit_belief
from mergefront.runs.directory import ItemRecord
from mergefront.runs.history import BEHIND, COLLAPSED, KNOWN, constant_objectives
from mergefront.sampling.gp.posterior import TRUSTED_FROM
from mergefront.search.race import Race, rungs_of
from mergefront.stats import estimate
from mergefront.stats.partial import Difficulty, chance_on_front, partial_estimate, prefixes

Array = NDArray[np.float64]

NAMES = ("reasoning", "perception")
REFERENCE = {"reasoning": 0.3, "perception": 0.6}


def population(seed: int, n_units: int = 400) -> tuple[Array, Array]:
    """Chances of N units to be answered by a candidate, and what earlier ones made of them."""
    random = np.random.default_rng(seed)
    chances = 1 / (1 + np.exp(-1.6 * random.standard_normal(n_units)))
    difficulty = Difficulty(n_units)
    for _ in range(12):
        difficulty.learn((random.random(n_units) < chances).astype(float))
    return chances, difficulty.mean()


def test_from_part_of_the_items_the_whole_score_is_estimated_without_bias() -> None:
    """Over orders of the items: right on average, as far off as stated, nearer than the mean."""
    chances, difficulty = population(0)
    random = np.random.default_rng(1)
    scores = (random.random(len(chances)) < chances).astype(float)
    names = [str(i) for i in range(len(scores))]
    off, stated, plain = [], [], []
    for _ in range(1500):
        order = random.permutation(len(scores))
        seen = scores[order][:80]
        found = partial_estimate(seen, names[:80], difficulty[order])
        off.append(found.mean - scores.mean())
        stated.append(found.partial)
        plain.append(seen.mean() - scores.mean())
    assert abs(np.mean(off)) < 4 * np.std(off) / np.sqrt(len(off))
    assert np.mean(stated) == pytest.approx(np.std(off), rel=0.12)
    assert np.std(off) < 0.9 * np.std(plain)


def test_partial_and_whole_errors_add_up_to_that_of_a_sample() -> None:
    """About the chances of all such items: what is not answered, and that there are only N."""
    random = np.random.default_rng(2)
    off, stated = [], []
    for seed in range(400):
        chances, difficulty = population(seed, 200)
        scores = (random.random(200) < chances).astype(float)
        found = partial_estimate(scores[:50], [str(i) for i in range(50)], difficulty)
        off.append(found.mean - 0.5)  # symmetric: half of all such items are answered
        stated.append(found.se)
    assert np.mean(stated) == pytest.approx(np.std(off), rel=0.12)


def test_clusters_count_as_one() -> None:
    _, difficulty = population(3)
    scores = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0] * 2, 8)
    alone = partial_estimate(scores, [str(i) for i in range(80)], difficulty)
    together = partial_estimate(scores, [str(i // 8) for i in range(80)], difficulty)
    assert together.mean == alone.mean
    assert together.partial > 1.8 * alone.partial


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_with_all_items_it_is_the_mean(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, names = random.random(n), [str(i) for i in range(n)]
    found, usual = partial_estimate(scores, names, random.random(n)), estimate(scores, names)
    assert (found.mean, found.n, found.partial) == (usual.mean, n, 0.0)
    assert found.se == usual.se or n == 1


@pytest.mark.parametrize("seen", [0, 6])
def test_no_score_or_too_many_are_refused(seen: int) -> None:
    with pytest.raises(ValueError, match=f"{seen} scores of 5 units"):
        partial_estimate(np.zeros(seen), [""] * seen, np.zeros(5))


def test_difficulty_is_shrunken_to_the_level_and_never_knows_nothing() -> None:
    difficulty = Difficulty(4)
    assert difficulty.mean().tolist() == [0.0] * 4
    difficulty.learn([1.0, 1.0, 1.0, 0.0])
    difficulty.learn([1.0, 0.0, 1.0, 0.0])
    assert difficulty.mean() == pytest.approx(np.array([2, 1, 2, 0]) / 4 + 2 * 0.625 / 4)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 4), st.integers(1, 7), st.integers(0, 10_000), st.floats(0.0, 0.05))
def test_the_chance_to_be_on_a_front_is_that_of_draws(
    m: int, k: int, seed: int, margin: float
) -> None:
    random = np.random.default_rng(seed)
    front, mean = random.random((k, m)), random.random(m)
    deviation = random.uniform(0.01, 0.4, m)
    draws = mean + deviation * random.standard_normal((40_000, m))
    beaten = np.all(front[None] + margin >= draws[:, None], axis=2).any(axis=1)
    found = chance_on_front(mean, deviation, front, margin)
    assert found == pytest.approx(1 - beaten.mean(), abs=0.015 if m == 2 else 0.05)


def test_the_chance_without_any_doubt_or_any_front() -> None:
    front = [[0.5, 0.9], [0.7, 0.7]]
    assert chance_on_front([0.6, 0.8], [0.0, 0.0], front) == pytest.approx(1.0)
    assert chance_on_front([0.6, 0.6], [0.0, 0.0], front) == pytest.approx(0.0)
    assert chance_on_front([0.705, 0.6], [0.0, 0.0], front, margin=0.01) == pytest.approx(0.0)
    assert chance_on_front([0.1, 0.1], [0.1, 0.1], np.zeros((0, 2))) == 1.0


@pytest.mark.parametrize(
    ("n", "rungs", "least", "expected"),
    [
        (400, 4, 1, [50, 100, 200, 400]),
        (400, 4, 64, [64, 100, 200, 400]),
        (400, 4, 250, [250, 400]),
        (10, 3, 1, [3, 5, 10]),
        (1, 4, 1, [1]),
        (100, 4, 500, [100]),
    ],
)
def test_rungs_double_up_to_all_items(n: int, rungs: int, least: int, expected: list[int]) -> None:
    assert prefixes(n, rungs, least) == expected


def item(task: str, i: int, unit: str = "") -> Item:
    return Item(f"{task}{i}", task, "?", (), ("1",), cluster=f"{task}{i}", unit=unit)


def test_rungs_hold_every_item_once_in_order_and_units_whole() -> None:
    items = {
        "reasoning": [item("r", i, unit=f"u{i // 3}") for i in range(60)],
        "perception": [item("p", i) for i in range(20)],
    }
    many = [item("p", i) for i in range(200)]
    rungs = rungs_of(items, RacingConfig(rungs=4))
    assert len(rungs) == 4
    for name, mine in items.items():
        assert [i for rung in rungs for i in rung[name]] == mine
    for upto in range(1, 4):
        asked = [i for rung in rungs[:upto] for i in rung["reasoning"]]
        assert len(asked) % 3 == 0
        share = sum(len(rung["perception"]) for rung in rungs[:upto]) / 20
        assert share == pytest.approx(len(asked) / 60, abs=0.06)
    assert rungs_of(items, RacingConfig(enabled=False)) == [items]
    few = {"reasoning": [item("r", i, unit=f"u{i // 5}") for i in range(10)], "perception": many}
    assert [len(rung["reasoning"]) for rung in rungs_of(few, RacingConfig(rungs=4))] == [5, 0, 0, 5]
    assert all(
        sum(map(len, rung.values())) >= 24 for rung in rungs_of(items, RacingConfig(), 24)[:1]
    )


def records(objective: str, scores: Array) -> list[ItemRecord]:
    return [
        ItemRecord("search", objective, objective, f"{objective}{i}", f"{objective}{i}", 0,
                   float(score), "", "ok", 1, "")
        for i, score in enumerate(scores)
    ]  # fmt: skip


def truth(point: Array) -> Array:
    """Reasoning rises with the first knob, perception falls with it; the second harms both."""
    means: Array = np.array([0.35 + 0.4 * point[0], 0.9 - 0.25 * point[0] ** 2])
    return means - 0.3 * float(point[1])


def answers(point: Array, seed: int, n: int = 200) -> list[ItemRecord]:
    random = np.random.default_rng(seed)
    return [
        row
        for name, chance in zip(NAMES, truth(point), strict=True)
        for row in records(name, (random.random(n) < chance).astype(float))
    ]


def told(race: Race, number: int, point: Array, seed: int) -> Evaluation:
    rows = answers(point, seed)
    evaluation = Evaluation(number, tuple(point.tolist()), "test", race.estimate(rows))
    race.learn(evaluation, rows)
    return evaluation


def racing(n: int, **settings: float) -> Race:
    """A race after n candidates on a line and beside it."""
    items = {name: [item(name, i) for i in range(200)] for name in NAMES}
    race = Race(RacingConfig(**settings), items, REFERENCE, seed=3)
    points = np.random.default_rng(0).random((n, 2)) * [1.0, 0.5]
    for number, point in enumerate(points):
        told(race, number, point, 100 + number)
    return race


def first_rung(race: Race, point: Array, seed: int) -> str:
    rows = answers(point, seed)
    seen = [row for name in NAMES for row in rows if row.objective == name]
    seen = [row for row in seen if int(row.item.removeprefix(row.objective)) < 50]
    return race.verdict(tuple(point.tolist()), race.estimate(seen))


@pytest.mark.parametrize("n", [20, 80])
def test_who_is_behind_leaves_and_who_is_ahead_stays(n: int) -> None:
    race = racing(n, enough=1.0)
    assert race.belief.by_model == (n >= TRUSTED_FROM)
    bad = [first_rung(race, np.array([x, 0.9]), s) for s, x in enumerate((0.2, 0.5, 0.8) * 5)]
    good = [first_rung(race, np.array([x, 0.0]), s) for s, x in enumerate((0.2, 0.5, 0.8) * 5)]
    assert sum(verdict in (BEHIND, COLLAPSED) for verdict in bad) >= 12
    assert sum(verdict == "" for verdict in good) >= 12


def test_what_collapsed_leaves_at_once_and_what_is_known_needs_no_more() -> None:
    race = racing(80, enough=9.0)
    wreck = records("reasoning", np.ones(25)) + records("perception", np.zeros(25))
    assert race.verdict((0.5, 0.0), race.estimate(wreck)) == COLLAPSED
    assert first_rung(race, np.array([0.5, 0.1]), 1) == KNOWN
    assert first_rung(racing(80, enough=1.0), np.array([0.5, 0.1]), 1) == ""


def test_the_lot_is_the_seeds_and_about_as_frequent_as_asked() -> None:
    items = {name: [item(name, i) for i in range(8)] for name in NAMES}
    one, other = (Race(RacingConfig(full_every=10), items, REFERENCE, seed) for seed in (0, 1))
    drawn = [number for number in range(8, 1008) if one.answers_all(number)]
    assert all(one.answers_all(number) for number in range(8))
    assert 70 < len(drawn) < 135
    assert drawn != [number for number in range(8, 1008) if other.answers_all(number)]
    off = Race(RacingConfig(enabled=False), items, REFERENCE, 0)
    assert all(off.answers_all(number) for number in range(40))


def test_only_whole_candidates_teach_how_hard_an_item_is() -> None:
    race = racing(4)
    before = race.estimate(records("reasoning", np.ones(50)) + records("perception", np.ones(50)))
    rows = records("reasoning", np.zeros(50)) + records("perception", np.zeros(50))
    left = Evaluation(4, (0.5, 0.5), "test", race.estimate(rows), raced=Raced(1, BEHIND))
    race.learn(left, rows)
    again = race.estimate(records("reasoning", np.ones(50)) + records("perception", np.ones(50)))
    assert again == before


def found(number: int, point: tuple[float, ...], values: Array, failure: str = "") -> Evaluation:
    estimates = {
        name: Estimate(float(value), 0.03, 200) for name, value in zip(NAMES, values, strict=True)
    }
    return Evaluation(number, point, "test", estimates, failure=failure)


def candidates(n: int, noise: float, seed: int = 0) -> list[Evaluation]:
    random = np.random.default_rng(seed)
    points = random.random((n, 2)) * [1.0, 0.4]
    return [
        found(i, tuple(p.tolist()), truth(p) + noise * random.standard_normal(2))
        for i, p in enumerate(points)
    ]


def test_the_model_chooses_once_it_can_be_trusted_and_is_nearer_to_the_truth() -> None:
    few = fit_belief(candidates(TRUSTED_FROM - 1, 0.03), NAMES, REFERENCE)
    assert (
        few.why_scores_choose
        == f"{TRUSTED_FROM - 1} of {TRUSTED_FROM} candidates that the model needs"
    )
    many = candidates(90, 0.03)
    belief = fit_belief(many, NAMES, REFERENCE)
    assert belief.by_model
    true = np.array([truth(np.array(e.point)) for e in many])
    raw = np.array([[e.objectives[o].mean for o in NAMES] for e in many])
    assert np.abs(belief.mean_NM - true).mean() < 0.5 * np.abs(raw - true).mean()
    rows = [many[number] for number in belief.front]
    assert [belief.estimates(e.number)["reasoning"].mean for e in rows] == sorted(
        (belief.estimates(e.number)["reasoning"].mean for e in rows), reverse=True
    )


def test_what_is_believed_lies_within_its_error_as_often_as_it_says() -> None:
    covered = []
    for seed in range(6):
        many = candidates(60, 0.03, seed)
        belief = fit_belief(many, NAMES, REFERENCE)
        true = np.array([truth(np.array(e.point)) for e in many])
        covered.append(np.mean(np.abs(belief.mean_NM - true) < 1.96 * belief.deviation_NM))
    assert 0.9 < np.mean(covered) < 0.99


def test_what_is_said_of_a_candidate_counts_the_luck_that_all_have_in_common() -> None:
    """Scores off by up to three points, the same for all: no comparison shows that, `of` must."""
    among, said = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        shift = 0.026 * random.standard_normal(2)  # of the error of 0.03 that is stated, the rest
        many = [
            found(e.number, e.point, shift + [e.objectives[o].mean for o in NAMES])
            for e in candidates(40, 0.015, seed)
        ]
        belief = fit_belief(many, NAMES, REFERENCE)
        assert belief.by_model
        for number in belief.front:
            off = np.abs(belief.means([number])[0] - truth(np.array(many[number].point)))
            claimed = [belief.estimates(number)[o].se for o in NAMES]
            among.append((off < 1.96 * belief.deviation_NM[number]).mean())
            said.append((off < 1.96 * np.array(claimed)).mean())
    assert np.mean(among) < 0.7
    assert 0.88 < np.mean(said) < 0.99


def test_a_guard_goes_by_the_comparison_and_a_constraint_by_the_candidate() -> None:
    """The luck of the items shifts candidates and receiver alike: it cancels in what is gained."""
    z = []
    for seed in range(30):
        random = np.random.default_rng(seed)
        shift = 0.026 * random.standard_normal(2)
        many = [
            found(e.number, e.point, shift + [e.objectives[o].mean for o in NAMES])
            for e in candidates(40, 0.015, seed)
        ]
        at = np.array([0.0, 0.0])
        scored = truth(at) + shift + 0.015 * random.standard_normal(2)
        receiver = {
            name: Estimate(float(value), 0.03, 200)
            for name, value in zip(NAMES, scored, strict=True)
        }
        belief = fit_belief(many, NAMES, REFERENCE)
        for number in belief.front:
            true = truth(np.array(many[number].point)) - truth(at)
            gain = belief.gains(number, receiver)
            z += [(gain[o].mean - t) / gain[o].se for o, t in zip(NAMES, true, strict=True)]
    assert 0.6 < np.sqrt(np.mean(np.square(z))) < 1.4


def test_one_cluster_leaves_no_error_unknown() -> None:
    many = [
        Evaluation(e.number, e.point, "test", {
            name: Estimate(one.mean, float("nan") if name == "perception" else one.se, one.n)
            for name, one in e.objectives.items()
        })
        for e in candidates(40, 0.02)
    ]  # fmt: skip
    belief = fit_belief(many, NAMES, REFERENCE)
    assert belief.by_model
    assert all(math.isfinite(belief.estimates(n)["perception"].se) for n in belief.numbers)


def test_a_model_that_misjudges_steps_back() -> None:
    """Scores that jump far beyond their stated errors, as no smooth surface does."""
    random = np.random.default_rng(1)
    wild = [
        found(i, (0.5, 0.5), np.array([0.5, 0.8]) + 0.09 * random.choice([-1, 1], 2))
        for i in range(60)
    ]
    belief = fit_belief(wild, NAMES, REFERENCE)
    assert belief.why_scores_choose == "the model misjudges reasoning and perception"
    raw = [[e.objectives[o].mean for o in NAMES] for e in wild]
    assert belief.mean_NM.tolist() == raw


def test_failed_candidates_are_not_believed_and_collapsed_ones_keep_their_scores() -> None:
    many = [*candidates(60, 0.02), found(60, (0.1, 0.1), np.array([0.01, 0.02]))]
    many.append(Evaluation(61, (0.2, 0.2), "test", {}, failure="no memory"))
    belief = fit_belief(many, NAMES, REFERENCE)
    assert belief.by_model
    assert belief.numbers == tuple(range(61))
    assert belief.estimates(60)["reasoning"] == Estimate(0.01, 0.03, 0)
    assert 60 not in belief.front
    assert fit_belief([], NAMES, REFERENCE).front == ()


def test_an_objective_that_never_changes_is_said(caplog: pytest.LogCaptureFixture) -> None:
    items = {name: [item(name, i) for i in range(8)] for name in NAMES}
    race = Race(RacingConfig(), items, REFERENCE, 0)
    for number in range(12):
        rows = records("reasoning", np.where(np.arange(8) < number % 8, 1.0, 0.0)) + records(
            "perception", np.ones(8)
        )
        race.learn(Evaluation(number, (0.1 * number,), "x", race.estimate(rows)), rows)
    assert constant_objectives(race.evaluations, NAMES) == ["perception"]
    (line,) = caplog.records
    assert line.getMessage().startswith("objective perception: all of the first candidates score")
