"""Optuna's NSGA-II, NSGA-III, TPE and GP samplers made replayable.

Optuna's samplers draw from one generator that lives as long as the process, so that a resumed
study continues differently. Here each trial gets a new inner sampler with a seed of its own, on a
study in memory that holds exactly the trials the proposal is allowed to see.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from mergefront.sampling.problem import Array, Problem
from mergefront.sampling.replay import UNIT, Proposer, Tell
from mergefront.seeds import Purpose, generator

Point = tuple[float, ...]
OptunaKind = Literal["nsga2", "nsga3", "tpe", "gp"]

POPULATION = 20
"""Of NSGA-II and III: 10 generations in 200 candidates (Optuna's 50 would leave 4)."""

_DIVISIONS = {1: 1, 2: 19, 3: 4, 4: 3}  # objectives: NSGA-III gets 1, 20, 15, 20 directions
_GENERATIONS = ("NSGAIISampler:generation", "NSGAIIISampler:generation")
_MOST_RUNNING = 8  # trials in flight that GP is told of


class OptunaProposer(Proposer):
    """One of Optuna's own samplers, rebuilt for each trial (Optuna 5.0).

    NSGA-II and III count generations by finished trials: the first `POPULATION` told are
    generation 0, warm starts included, and so on. NSGA-III settles ties among its directions anew
    for each trial. TPE ignores trials in flight (no constant liar), because a proposal may depend
    only on what has been told. Failed trials are left out. Constraints are known to all four.

    GP takes all scores for equally noisy and its front from the raw scores. Optuna holds its
    threads to one, so that a seed repeats its proposal. It begins after 10 finished trials and is
    slow: docs/search.md has its cost. Its seed moves a proposal by a thousandth only; lest trials
    asked together get one point, the numbers that have not been told yet (at most the last 8)
    enter as running, at the points that the same tells would give them.
    """

    def __init__(self, kind: OptunaKind, problem: Problem) -> None:
        self._kind = kind
        self._problem = problem
        self._names = [f"x{i}" for i in range(problem.dimension)]
        self._distributions: dict[str, BaseDistribution] = dict.fromkeys(self._names, UNIT)
        least = enumerate(problem.constraints or ())
        self._least = [(m, bound) for m, bound in least if bound is not None]
        self._told_before: list[Tell] = []
        self._imagined: dict[int, Point] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def propose(self, tells: Sequence[Tell], number: int) -> Array:
        if self._kind != "gp":
            return np.array(self._proposed(tells, number, []))
        if self._told_before != list(tells):
            self._told_before, self._imagined = list(tells), {}
        told_numbers = {tell.number for tell in tells}
        running: list[Point] = []
        for waiting in [n for n in range(number) if n not in told_numbers][-_MOST_RUNNING:]:
            if waiting not in self._imagined:
                self._imagined[waiting] = self._proposed(tells, waiting, running)
            running.append(self._imagined[waiting])
        return np.array(self._proposed(tells, number, running))

    def _proposed(self, tells: Sequence[Tell], number: int, running: Sequence[Point]) -> Point:
        """Ask a new inner sampler on a new study that holds the tells and what is running."""
        study = optuna.create_study(
            directions=["maximize"] * self._problem.n_objectives, sampler=self._inner(number)
        )
        complete = [(tell.point, tell.values) for tell in tells if tell.values is not None]
        for index, (point, values) in enumerate(complete):
            trial = self._trial(
                point,
                state=TrialState.COMPLETE,
                values=values,
                constraints={f"least{m}": bound - values[m] for m, bound in self._least},
                system_attrs=dict.fromkeys(_GENERATIONS, index // POPULATION),
            )
            study.add_trial(trial)
        for point in running:
            study.add_trial(self._trial(point, state=TrialState.RUNNING))
        proposal = study.ask(self._distributions)
        return tuple(proposal.params[name] for name in self._names)

    def _trial(self, point: Point, **more: Any) -> FrozenTrial:
        params = dict(zip(self._names, point, strict=True))
        return create_trial(params=params, distributions=self._distributions, **more)

    def _inner(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(generator(self._problem.seed, Purpose.OPTUNA_SAMPLER, number).integers(2**32))
        match self._kind:
            case "nsga2":
                return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
            case "nsga3":
                with warnings.catch_warnings(category=ExperimentalWarning, action="ignore"):
                    return optuna.samplers.NSGAIIISampler(
                        population_size=POPULATION,
                        dividing_parameter=_DIVISIONS[self._problem.n_objectives],
                        seed=seed,
                    )
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, constant_liar=False)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
