"""noisy-gp: what its model, its pool and its worth of a point are."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergefront.records import RESULT_ATTRIBUTE
from mergefront.sampling import Problem, make_sampler
from mergefront.sampling.gp.kernel import DEFAULT_ERROR
from mergefront.sampling.noisy_gp import NoisyGpProposer, pool
from mergefront.sampling.replay import Tell, standard_errors
from mergefront.stats.pareto import hypervolume, improvements, undominated_boxes
from sampler_contract import REFERENCE, objectives, suggest


def make(dimension: int = 4, **change: object) -> NoisyGpProposer:
    legal = {"dimension": dimension, "seed": 0, "n_objectives": 2, "reference": REFERENCE}
    return NoisyGpProposer(Problem(**{**legal, **change}))  # type: ignore[arg-type]


def constrained(least: list[float | None] | None) -> Problem:
    return Problem(dimension=4, seed=0, n_objectives=2, constraints=least)


def noisy(n: int, dimension: int = 4, error: float = 0.03, shift: int = 0) -> list[Tell]:
    random = np.random.default_rng(5)
    found = []
    for i in range(n):
        point = tuple(random.random(dimension).tolist())
        noise = error * random.standard_normal(2)
        values = tuple((np.array(objectives(point)) + noise).tolist())
        found.append(Tell(i + shift, point, values, True, (error, error)))
    return found


def test_the_design_fills_the_box_evenly() -> None:
    proposer = make(dimension=12)
    design = np.array([proposer.propose([], number) for number in range(16)])
    halves = (design < 0.5).sum(axis=0)
    assert (halves == 8).all()  # Sobol: each half of each knob equally often


def test_failures_alone_continue_the_design() -> None:
    failed = [Tell(i, (0.1 * i, 0.5), None, True) for i in range(9)]
    found = make(dimension=2).propose(failed, 9)
    assert found.tolist() == make(dimension=2).propose([], 9).tolist()
    found = make(dimension=2, reference=None).propose(failed, 40)
    assert ((found >= 0) & (found <= 1)).all()


def test_trials_in_flight_get_points_of_their_own() -> None:
    proposer, tells = make(), noisy(30)
    batch = np.array([proposer.propose(tells, 30 + i) for i in range(6)])
    assert len(np.unique(batch, axis=0)) == 6
    anew = [make().propose(tells, 30 + i) for i in reversed(range(6))]
    assert (batch == np.array(anew[::-1])).all()


def test_standard_errors_are_read_and_matter() -> None:
    proposals = []
    for errors in ((0.002, 0.004), (0.2, 0.2), (DEFAULT_ERROR,) * 2, None):
        study = optuna.create_study(directions=["maximize"] * 2)
        study.sampler = make_sampler(
            "noisy-gp",
            Problem(dimension=2, seed=7, start=[0.5] * 2, n_objectives=2, reference=REFERENCE),
        )
        for number in range(10):
            trial = study.ask()
            point = suggest(trial, 2)
            if errors is not None:
                se = dict(zip(("reasoning", "perception"), errors, strict=True))
                trial.set_user_attr(RESULT_ATTRIBUTE, {"se": se})
            study.tell(trial, objectives(point))
            assert standard_errors(study.trials[number]) == errors
        proposals.append(suggest(study.ask(), 2))
    assert proposals[0] != proposals[1]
    assert proposals[2] == proposals[3]


def test_two_hundred_knobs() -> None:
    found = np.array([make(200).propose(noisy(60, 200), 60 + i) for i in (0, 0)])
    assert found.shape == (2, 200)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[0] == found[1]).all()


@pytest.mark.parametrize("n_objectives", [1, 3, 4])
def test_other_numbers_of_objectives(n_objectives: int) -> None:
    def values(x: np.ndarray) -> tuple[float, ...]:
        return tuple(float(1 - ((x - m / 4) ** 2).mean()) for m in range(n_objectives))

    proposer = make(n_objectives=n_objectives, reference=None)
    tells: list[Tell] = []
    for number in range(30):
        x = proposer.propose(tells, number)
        tells.append(Tell(number, tuple(x.tolist()), values(x), True, (0.01,) * n_objectives))
    found = [tell.values for tell in tells if tell.values is not None]
    design = [values(proposer.propose([], number)) for number in range(30)]
    low = [0.7] * n_objectives
    assert found[:9] == design[:9]
    assert hypervolume(found, low) > 1.1 * hypervolume(design, low)


def test_it_covers_more_than_random_search_under_noise() -> None:
    def covered(name: str, seed: int) -> float:
        random = np.random.default_rng(seed)
        study = optuna.create_study(directions=["maximize"] * 2)
        study.sampler = make_sampler(
            name,
            Problem(dimension=6, seed=seed, start=[0.5] * 6, n_objectives=2, reference=(0.5, 0.5)),
        )
        true = []
        for _ in range(40):
            trial = study.ask()
            true.append(objectives(suggest(trial, 6)))
            trial.set_user_attr(RESULT_ATTRIBUTE, {"se": {"a": 0.03, "b": 0.03}})
            study.tell(trial, (np.array(true[-1]) + random.normal(0, 0.03, 2)).tolist())
        return hypervolume(true, (0.5, 0.5))

    found = {n: [covered(n, s) for s in range(3)] for n in ("noisy-gp", "random")}
    assert min(found["noisy-gp"]) > max(found["random"])


def test_it_leaves_a_cliff_alone() -> None:
    fell: list[list[bool]] = []
    for seed in range(8):
        proposer, tells = make(dimension=3, seed=seed), list[Tell]()
        for number in range(41):
            x = proposer.propose(tells, number)
            values = (0.02, 0.05) if x.mean() > 0.5 else tuple(objectives(x.tolist()))
            tells.append(Tell(number, tuple(x.tolist()), values, True, (0.01, 0.01)))
        fell.append([tell.values == (0.02, 0.05) for tell in tells])
    design, later = np.array(fell)[:, :8], np.array(fell)[:, 21:]
    assert design.mean() > 0.45
    assert later.mean() < 0.6 * design.mean()  # .47 when written; the front ends at the edge


def test_what_was_told_is_not_proposed_again() -> None:
    front = np.zeros((1, 2))  # most steps from a corner end in the corner
    corner = (pool(front, np.random.default_rng(0)) == 0).all(axis=1)
    assert corner.sum() > 20

    def peak(x: tuple[float, float]) -> tuple[float, float]:
        return 0.9 - x[0] - x[1], 0.9 - 2 * x[0] - x[1]

    points = [(0.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.3, 0.1), (0.1, 0.3)]
    tells = [Tell(i, p, peak(p), True, (0.002, 0.002)) for i, p in enumerate(points)]
    proposer = make(dimension=2, reference=(-3.0, -3.0))
    found = [proposer.propose(tells, number).tolist() for number in range(9, 29)]
    assert [0.0, 0.0] not in found
    assert min(max(point) for point in found) < 0.1


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4), st.integers(1, 6), st.integers(0, 10_000))
def test_improvements_are_volume_added_or_distance_to_adding(m: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    front, points, reference = random.random((k, m)), random.random((7, m)), np.full(m, 0.25)
    found = improvements(points, front, reference)
    volume = hypervolume(front, reference)
    for point, worth in zip(points, found, strict=True):
        added = hypervolume(np.vstack([front, point]), reference) - volume
        assert max(worth, 0.0) == pytest.approx(added, abs=1e-12)
        if worth < 0:  # raised by so much and a little more, it adds; by a little less, it does not
            assert improvements(point[None] - worth + 1e-9, front, reference)[0] > 0
            assert improvements(point[None] - worth - 1e-9, front, reference)[0] < 0


def test_improvement_of_one_objective_is_the_rise() -> None:
    found = improvements(np.array([[0.5], [0.7], [0.1]]), np.array([[0.6], [0.3]]), np.array([0.2]))
    assert found == pytest.approx([-0.1, 0.1, -0.5])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 10_000))
def test_boxes_hold_each_point_that_no_member_bars_once(m: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    reference = np.full(m, 0.2)
    front = random.uniform(0.2, 1.0, (k, m)).round(1 + seed % 3) + 0.001  # some with ties
    points = random.uniform(0.2, 1.2, (200, m))
    lower, upper = undominated_boxes(front, reference)
    within = ((lower < points[:, None]) & (points[:, None] < upper)).all(axis=2).sum(axis=1)
    barred = np.all(front >= points[:, None], axis=2).any(axis=1)
    assert within.tolist() == np.where(barred, 0, 1).tolist()


def test_constraints_raise_the_corner_from_which_volume_counts() -> None:
    assert constrained([None, 0.5]).raised(np.array([0.2, 0.3])).tolist() == [0.2, 0.5]
    assert constrained([0.1, None]).raised(np.array([0.2, 0.3])).tolist() == [0.2, 0.3]
    assert constrained(None).raised(np.array([0.2, 0.3])).tolist() == [0.2, 0.3]
    short = constrained([0.3, 0.5]).shortfalls([[0.1, 0.9], [0.4, 0.2], [0.0, 0.0]])
    assert short == pytest.approx([0.2, 0.3, 0.8])
    assert constrained([None, 0.5]).shortfalls([[0.1, 0.9]]).tolist() == [0.0]


def test_while_nothing_is_feasible_the_violation_shrinks() -> None:
    least = 0.898  # of perception, reached only within 0.05 of 0.1 in every knob
    short: dict[bool, list[float]] = {}
    for bound in (True, False):
        proposer, tells = make(5, constraints=[None, least] if bound else None), list[Tell]()
        for number in range(40):
            x = proposer.propose(tells, number)
            values = tuple(objectives(x.tolist()))
            tells.append(Tell(number, tuple(x.tolist()), values, True, (0.005, 0.005)))
        short[bound] = [max(0.0, least - tell.values[1]) for tell in tells if tell.values]
    assert min(short[True][:10]) > 0.02  # nothing of the design comes near
    assert np.median(short[True][25:]) < 0.25 * min(short[True][:10])
    assert np.median(short[True][25:]) < 0.25 * np.median(short[False][25:])
