"""Random search, and Optuna's NSGA-II and TPE made replayable.

Optuna's samplers draw from one generator that lives as long as the process, so that a resumed
study continues differently. Here each trial gets a new inner sampler with a seed of its own, on a
study in memory that holds exactly the trials the proposal is allowed to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from mergefront.propose.replay import UNIT, Proposer, Tell, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

POPULATION = 20
"""NSGA-II's population: 10 generations in 200 candidates (Optuna's 50 would leave 4)."""

_RANDOM, _INNER = 10, 11  # purposes of derived seeds


class RandomProposer(Proposer):
    """Uniform points in [0, 1]^D; looks at nothing but the trial's number."""

    def __init__(self, *, dimension: int, seed: int) -> None:
        self._dimension = dimension
        self._seed = seed

    def propose(self, tells: Sequence[Tell], number: int) -> NDArray[np.float64]:
        """Return the point of trial `number`."""
        del tells
        return generator(self._seed, _RANDOM, number).random(self._dimension)


class OptunaProposer(Proposer):
    """One of Optuna's own samplers, rebuilt for each trial (Optuna 5.0).

    NSGA-II counts generations by finished trials: the first `POPULATION` told are generation 0,
    warm starts included, and so on. TPE ignores trials in flight (no constant liar), because a
    proposal may depend only on what has been told. Failed trials are left out.
    """

    def __init__(
        self, kind: Literal["nsga2", "tpe"], *, dimension: int, seed: int, n_objectives: int
    ) -> None:
        self._kind = kind
        self._names = [f"x{i}" for i in range(dimension)]
        self._seed = seed
        self._n_objectives = n_objectives
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def propose(self, tells: Sequence[Tell], number: int) -> NDArray[np.float64]:
        """Return the point of trial `number`, given `tells` in finishing order."""
        study = optuna.create_study(
            directions=["maximize"] * self._n_objectives, sampler=self._inner(number)
        )
        distributions: dict[str, BaseDistribution] = dict.fromkeys(self._names, UNIT)
        complete = [tell for tell in tells if tell.values is not None]
        for index, tell in enumerate(complete):
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE,
                    params=dict(zip(self._names, tell.point, strict=True)),
                    distributions=distributions,
                    values=tell.values,
                    system_attrs={"NSGAIISampler:generation": index // POPULATION},
                )
            )
        trial = study.ask(distributions)
        return np.array([trial.params[name] for name in self._names])

    def _inner(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(generator(self._seed, _INNER, number).integers(2**32))
        match self._kind:
            case "nsga2":
                return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, constant_liar=False)
