"""The two samplers on CMA-ES kernels: by hypervolume (como-cma) and by weightings (cma)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import optuna
import pytest

from mergefront.sampling import Problem, make_sampler
from mergefront.sampling.cma import (
    ComoCmaProposer,
    Kernel,
    ScalarCmaProposer,
    scalarised,
    weightings,
)
from mergefront.sampling.replay import Tell
from mergefront.stats.pareto import hypervolume
from sampler_contract import WARM, objectives, points, run, suggest

NAMES = ("como-cma", "cma")


@pytest.mark.parametrize("name", NAMES)
def test_all_failures_and_no_reference_are_survived(name: str) -> None:
    sampler = make_sampler(
        name, Problem(dimension=3, seed=0, start=[0.5] * 3, n_objectives=2, reference=None)
    )
    study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
    for number in range(90):
        trial = study.ask()
        point = suggest(trial, 3)
        if number < 50:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, objectives(point))
    assert np.isfinite(points(study)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_objectives", [1, 3, 4])
def test_other_numbers_of_objectives_are_climbed(name: str, n_objectives: int) -> None:
    sampler = make_sampler(
        name, Problem(dimension=4, seed=0, start=[0.5] * 4, n_objectives=n_objectives)
    )
    study = optuna.create_study(directions=["maximize"] * n_objectives, sampler=sampler)
    for _ in range(80):
        trial = study.ask()
        x = np.array(suggest(trial, 4))
        study.tell(trial, [float(1 - ((x - m / 4) ** 2).sum()) for m in range(n_objectives)])
    values = np.array([t.values for t in study.trials])
    assert values[40:].max(axis=0).min() >= values[:20].max(axis=0).min()


@pytest.mark.parametrize("kind", [ComoCmaProposer, ScalarCmaProposer])
def test_they_learn_in_five_hundred_dimensions(
    kind: type[ComoCmaProposer] | type[ScalarCmaProposer],
) -> None:
    proposer = kind(
        Problem(dimension=500, seed=0, start=[0.5] * 500, n_objectives=2, reference=(0.3, 0.3))
    )
    tells: list[Tell] = []
    for number in range(400):
        point = tuple(proposer.propose(tells, number).tolist())
        tells.append(Tell(number, point, tuple(objectives(point)), True))
    values = np.array([tell.values for tell in tells])
    assert hypervolume(values, (0.6, 0.6)) > 1.08 * hypervolume(values[:24], (0.6, 0.6))


@pytest.mark.parametrize("name", NAMES)
def test_no_files_are_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(directions=["maximize"] * 2)
    study.sampler = make_sampler(
        name, Problem(dimension=5, seed=7, start=[0.5] * 5, n_objectives=2)
    )
    run(study, 5, 40)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [6, 14])
def test_they_cover_more_than_random_search_and_nsga2(dimension: int) -> None:
    def covered(name: str, seed: int) -> float:
        sampler = make_sampler(
            name, Problem(dimension=dimension, seed=seed, start=[0.5] * dimension, n_objectives=2)
        )
        study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
        for value in WARM:
            study.enqueue_trial({f"k{i}": value for i in range(dimension)})
        run(study, dimension, 120)
        values = [t.values for t in study.get_trials(deepcopy=False) if t.values is not None]
        return hypervolume(values, (0.5, 0.5))

    found = {n: [covered(n, s) for s in range(3)] for n in (*NAMES, "nsga2", "random")}
    for name in NAMES:
        assert min(found[name]) > max(found["random"])
        assert np.mean(found[name]) > np.mean(found["nsga2"])


def test_a_kernel_draws_without_changing_and_learns_towards_the_better() -> None:
    rng = np.random.default_rng
    kernel = Kernel([0.5, 0.5, 0.5], 0.2, population=6)
    first = kernel.draw(rng(1))
    assert (kernel.draw(rng(2)) != first).all()
    assert (kernel.draw(rng(1)) == first).all()
    target = np.array([0.8, 0.1, 0.6])
    for generation in range(30):
        batch = [kernel.draw(rng([generation, i])) for i in range(6)]
        kernel.tell([b.tolist() for b in batch], [-float(((b - target) ** 2).sum()) for b in batch])
    assert np.mean([kernel.draw(rng(i)) for i in range(50)], axis=0) == pytest.approx(
        target, abs=0.05
    )


@pytest.mark.parametrize("n_objectives", [1, 2, 3, 4])
def test_weightings_are_even_on_the_simplex(n_objectives: int) -> None:
    found_WM = weightings(n_objectives)
    assert found_WM.sum(axis=1) == pytest.approx(np.ones(len(found_WM)))
    assert found_WM.min() >= 0.25 / n_objectives
    assert (np.diff(found_WM[:, 0]) >= 0).all()  # as kernels are laid: lowest first
    rows = {tuple(row) for row in found_WM.round(9).tolist()}
    assert len(rows) == len(found_WM)
    for m in range(n_objectives - 1):  # no objective is special
        swapped_WM = found_WM.copy()
        swapped_WM[:, [m, m + 1]] = swapped_WM[:, [m + 1, m]]
        assert {tuple(row) for row in swapped_WM.round(9).tolist()} == rows


def test_a_hollow_front_is_reached_between_its_ends() -> None:
    first = np.linspace(0.0, 1.0, 1001)
    front_N2 = np.column_stack([first, (1.0 - np.sqrt(first)) ** 2])
    best = [np.argmax([scalarised(v, w) for v in front_N2]) for w in weightings(2)]
    assert best == sorted(set(best))
    assert 0 < best[1] < best[2] < 1000
    weighted_sum = [int(np.argmax(front_N2 @ w)) for w in weightings(2)]
    assert set(weighted_sum) == {0, 1000}  # what the weighting was chosen for


def test_every_kernel_of_cma_finds_its_own_part_of_the_front() -> None:
    proposer = ScalarCmaProposer(
        Problem(dimension=2, seed=0, start=[0.5] * 2, n_objectives=2, reference=(0.5, 0.5))
    )
    tells: list[Tell] = []
    for number in range(240):
        point = tuple(proposer.propose(tells, number).tolist())
        tells.append(Tell(number, point, tuple(objectives(point)), True))
    values_N2 = np.array([tell.values for tell in tells])
    grid = np.linspace(0, 1, 101)
    every_N2 = np.array([objectives((x, y)) for x in grid for y in grid])
    scaled = (every_N2 - 0.5) / (values_N2.max(axis=0) - 0.5)
    for kernel, weights in enumerate(weightings(2)):
        best = every_N2[np.argmax([scalarised(v, weights) for v in scaled])]
        late = values_N2[kernel::4][-15:]
        assert np.median(late, axis=0) == pytest.approx(best, abs=0.03)
